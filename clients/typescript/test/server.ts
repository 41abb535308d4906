import { Stockroom, type StockroomOptions } from '../src/index.js';

function variable(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run the tests by make test/typescript`);
  return value;
}

/** Where the server is that scripts/with-server.sh started. */
export const baseUrl = variable('STOCKROOM_URL');
export const apiKey = variable('STOCKROOM_API_KEY');
export const writeKey = variable('STOCKROOM_WRITE_KEY');
export const readKey = variable('STOCKROOM_READ_KEY');

export function connect(options: StockroomOptions = {}): Stockroom {
  return new Stockroom({ baseUrl, apiKey, ...options });
}

export async function collect<T>(list: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of list) all.push(item);
  return all;
}
