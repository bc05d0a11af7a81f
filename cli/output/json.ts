import { type DescMessage, type MessageShape, toJson } from '@bufbuild/protobuf';

/**
 * A message as protobuf JSON: lowerCamelCase names, 64-bit numbers as text, times in RFC 3339, unset numbers and texts
 * written out, so that a program finds each field of a kind in each document.
 */
export function jsonDocument<M extends DescMessage>(schema: M, message: MessageShape<M>): string {
  return `${JSON.stringify(toJson(schema, message, { alwaysEmitImplicit: true }), undefined, 2)}\n`;
}

/** The same on one line, for watches. */
export function jsonLine<M extends DescMessage>(schema: M, message: MessageShape<M>): string {
  return `${JSON.stringify(toJson(schema, message, { alwaysEmitImplicit: true }))}\n`;
}
