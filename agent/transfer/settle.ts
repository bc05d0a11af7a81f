/** Waits until all have settled, then rejects with the first rejection: nothing goes on behind the caller's back. */
export async function settleAll(work: readonly Promise<void>[]): Promise<void> {
  let failed: { error: unknown } | null = null;
  const noted = work.map((each) =>
    each.catch((error: unknown) => {
      failed ??= { error };
    }),
  );
  await Promise.all(noted);
  const first = failed as { error: unknown } | null;
  if (first) throw first.error;
}
