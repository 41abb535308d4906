import { setTimeout as sleep } from 'node:timers/promises';
import { isProblem, retryAfter, StockroomError } from './errors.js';

export interface TransportOptions {
  fetch: typeof globalThis.fetch;
  maxRetries: number;
}

// The longest that a timer of Node.js can take.
const longest = 2 ** 31 - 1;

/**
 * Sends the request and returns the answer with its body read, all of it within timeoutMs.
 *
 * A 503 that says when to come back (Retry-After) is tried again, unless the outcome of the write is unknown, its
 * tries are used up, or the time would be over by then. Nothing else is tried again: whether a write that got no
 * answer happened is for the caller to find out.
 */
export async function send(request: Request, timeoutMs: number, options: TransportOptions): Promise<Response> {
  request.signal.throwIfAborted();
  const controller = new AbortController();
  const abort = () => controller.abort(request.signal.reason);
  request.signal.addEventListener('abort', abort, { once: true });
  let timedOut = false;
  const timer = setTimeout(
    () => {
      timedOut = true;
      controller.abort();
    },
    Math.min(timeoutMs, longest),
  );
  const deadline = performance.now() + timeoutMs;
  try {
    const body = request.body === null ? undefined : await request.arrayBuffer();
    for (let tries = 1; ; tries++) {
      const response = await attempt(request, { body, signal: controller.signal }, options.fetch);
      const wait = tries <= options.maxRetries ? await retryIn(response) : undefined;
      if (wait === undefined || performance.now() + wait >= deadline) return response;
      await sleep(wait, undefined, { signal: controller.signal });
    }
  } catch (cause) {
    if (request.signal.aborted) throw request.signal.reason;
    if (timedOut) {
      throw new StockroomError({ status: 0, code: 'timeout', detail: `no answer within ${timeoutMs} ms`, cause });
    }
    throw new StockroomError({ status: 0, code: 'network', detail: reasonOf(cause), cause });
  } finally {
    clearTimeout(timer);
    request.signal.removeEventListener('abort', abort);
  }
}

// The body is read here, so that a connection that breaks or stalls in the middle of it is told like one that breaks
// before.
async function attempt(request: Request, init: RequestInit, fetch: typeof globalThis.fetch): Promise<Response> {
  const response = await fetch(request, init);
  const body = await response.arrayBuffer();
  const { status, statusText, headers } = response;
  const bare = status === 204 || status === 205 || status === 304;
  return new Response(bare ? null : body, { status, statusText, headers });
}

/** Returns after how many milliseconds the request may be tried again, or undefined where it must not. */
async function retryIn(response: Response): Promise<number | undefined> {
  if (response.status !== 503) return undefined;
  const seconds = retryAfter(response.headers);
  if (seconds === undefined) return undefined;
  const problem: unknown = await response
    .clone()
    .json()
    .catch(() => undefined);
  if (isProblem(problem) && problem.code === 'commit_unknown') return undefined;
  // Those who were sent away together should not come back together.
  return seconds * 1000 * (1 + Math.random() / 10);
}

// fetch says only that it failed; the reason is below.
function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return cause instanceof Error ? cause.message || cause.name : String(cause);
}
