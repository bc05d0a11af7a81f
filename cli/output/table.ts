/** Lays rows out in columns, two spaces apart, headers in capitals; the last column is not padded. Ends in a line feed. */
export function table(headers: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [headers.map((header) => header.toUpperCase()), ...rows.map((row) => row.map(printable))];
  const widths = headers.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** One "  Key = value" a line, the keys of one width, as `machine status` has them. */
export function keyValues(pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(...pairs.map(([key]) => key.length));
  return pairs.map(([key, value]) => `${`  ${key.padEnd(width)} = ${printable(value)}`.trimEnd()}\n`).join('');
}

/** What programs and agents say must not move the cursor of whoever reads it, nor break a line of a table. */
function printable(text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ');
}
