import { StockroomError } from './errors.js';

/** What a server takes in one batch, unless it is configured otherwise. */
const most = 1000;

/**
 * Calls send with the items, at most a batch of them at a time. A batch that is too large for the server, by its
 * number or its bytes, is sent in halves.
 */
export async function inBatches<T>(items: readonly T[], send: (batch: readonly T[]) => Promise<void>): Promise<void> {
  for (let i = 0; i < items.length; i += most) await inHalves(items.slice(i, i + most), send);
}

async function inHalves<T>(batch: readonly T[], send: (batch: readonly T[]) => Promise<void>): Promise<void> {
  try {
    await send(batch);
  } catch (error) {
    const tooLarge = error instanceof StockroomError && ['batch_too_large', 'body_too_large'].includes(error.code);
    if (!tooLarge || batch.length === 1) throw error;
    const half = Math.ceil(batch.length / 2);
    await inHalves(batch.slice(0, half), send);
    await inHalves(batch.slice(half), send);
  }
}
