/**
 * Returns the JSON of the value. What JSON would silently change or leave out is refused with a TypeError, for it would
 * not come back: NaN and the infinities, functions, symbols, maps, sets, and undefined anywhere but as a member of an
 * object, which is left out. A Date becomes its ISO 8601 string, as ever.
 */
export function encode(value: unknown): string {
  const text = JSON.stringify(value, check);
  if (text === undefined) throw new TypeError('undefined is no JSON value');
  return text;
}

function check(this: unknown, name: string, value: unknown): unknown {
  const bad =
    (typeof value === 'number' && !Number.isFinite(value)) ||
    typeof value === 'function' ||
    typeof value === 'symbol' ||
    value instanceof Map ||
    value instanceof Set ||
    (value === undefined && Array.isArray(this));
  if (bad) throw new TypeError(`${describe(value)}${name === '' ? '' : ` at ${name}`} is no JSON value`);
  return value;
}

function describe(value: unknown): string {
  return value instanceof Map ? 'a Map' : value instanceof Set ? 'a Set' : typeof value === 'function' ? 'a function' : String(value);
}
