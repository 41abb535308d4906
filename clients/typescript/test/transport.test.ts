import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { Stockroom, StockroomError, type StockroomOptions } from '../src/index.js';

interface Seen {
  method: string;
  url: string;
  headers: IncomingHttpHeaders;
  body: string;
}

type Reply = (response: ServerResponse) => void;

let server: Server | undefined;

afterEach(async () => {
  server?.closeAllConnections();
  await new Promise((resolve) => (server ? server.close(resolve) : resolve(undefined)));
  server = undefined;
});

/** Starts a server that gives the replies in turn, the last one for ever, and tells what it saw. */
async function answering(replies: Reply[], options: StockroomOptions = {}): Promise<{ stockroom: Stockroom; seen: Seen[]; url: string }> {
  const seen: Seen[] = [];
  server = createServer(async (request, response) => {
    request.setEncoding('utf8');
    let body = '';
    for await (const chunk of request) body += chunk;
    const reply = replies[Math.min(seen.length, replies.length - 1)]!;
    seen.push({ method: request.method!, url: request.url!, headers: request.headers, body });
    reply(response);
  });
  await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { stockroom: new Stockroom({ baseUrl: url, ...options }), seen, url };
}

const problem =
  (status: number, code: string, headers: Record<string, string> = {}): Reply =>
  (response) => {
    response.writeHead(status, { 'Content-Type': 'application/problem+json', 'X-Request-Id': 'r1', ...headers });
    response.end(JSON.stringify({ type: `urn:stockroom:problem:${code}`, title: code, status, code, detail: 'd', instance: '/', request_id: 'r1' }));
  };
const busy = problem(503, 'busy', { 'Retry-After': '0' });
const ok: Reply = (response) => {
  response.writeHead(200, { 'Content-Type': 'application/json' });
  response.end('1');
};

describe('a 503 with Retry-After', () => {
  it('is tried again with the same request', async () => {
    const { stockroom, seen } = await answering([busy, busy, (r) => r.writeHead(201).end('{}')]);
    expect(await stockroom.put('k', { text: 'ü'.repeat(100_000) }, { ttl: 5, requestId: 'mine' })).toMatchObject({ created: true });
    expect(seen).toHaveLength(3);
    expect(seen.every((s) => JSON.stringify(s) === JSON.stringify(seen[0]))).toBe(true);
    expect(seen[0]).toMatchObject({ method: 'PUT', url: '/v1/items/k?ttl=5', headers: { 'content-type': 'application/json', 'content-length': '200011', 'x-request-id': 'mine' } });
    expect(seen[0]!.body === JSON.stringify({ text: 'ü'.repeat(100_000) })).toBe(true);
  });

  it('is waited for as long as it says', async () => {
    const { stockroom, seen } = await answering([problem(503, 'busy', { 'Retry-After': '1' }), ok]);
    const start = performance.now();
    expect(await stockroom.get('k')).toBe(1);
    expect(performance.now() - start).toBeGreaterThanOrEqual(1000);
    expect(seen).toHaveLength(2);
  });

  it('may name a time', async () => {
    const past = new Date(Date.now() - 5000).toUTCString();
    const { stockroom, seen } = await answering([problem(503, 'busy', { 'Retry-After': past }), ok]);
    expect(await stockroom.get('k')).toBe(1);
    expect(seen).toHaveLength(2);
  });

  it('is tried again for HEAD and for the bare operations', async () => {
    const { stockroom, seen } = await answering([busy, ok, busy, ok]);
    expect(await stockroom.has('k')).toBe(true);
    expect((await stockroom.api.GET('/v1/frameworks')).response.status).toBe(200);
    expect(seen).toHaveLength(4);
  });

  it.each([
    [undefined, 4],
    [2, 3],
    [0, 1],
  ])('is tried again maxRetries times (%s)', async (maxRetries, tries) => {
    const { stockroom, seen } = await answering([busy], { maxRetries });
    const call = stockroom.get('k');
    await expect(call).rejects.toBeInstanceOf(StockroomError);
    await expect(call).rejects.toMatchObject({ status: 503, code: 'busy', detail: 'd', requestId: 'r1', retryAfter: 0, errors: [] });
    expect(seen).toHaveLength(tries);
  });

  it('is not waited for where the time would be over', async () => {
    const { stockroom, seen } = await answering([problem(503, 'busy', { 'Retry-After': '60' })], { timeoutMs: 10_000 });
    await expect(stockroom.get('k')).rejects.toMatchObject({ code: 'busy', retryAfter: 60 });
    expect(seen).toHaveLength(1);
  });
});

describe('nothing else is tried again', () => {
  it.each<[string, Reply]>([
    ['commit_unknown', problem(503, 'commit_unknown', { 'Retry-After': '0' })],
    ['unavailable', problem(503, 'unavailable')],
    ['unavailable', problem(503, 'unavailable', { 'Retry-After': 'soon' })],
    ['rate_limited', problem(429, 'rate_limited', { 'Retry-After': '0' })],
    ['internal', problem(500, 'internal', { 'Retry-After': '0' })],
    ['network', (response) => response.destroy()],
    ['network', (response) => void response.writeHead(200, { 'Content-Length': '10' }).write('1', () => response.destroy())],
  ])('%s', async (code, reply) => {
    const { stockroom, seen } = await answering([reply, ok]);
    await expect(stockroom.put('k', 1)).rejects.toMatchObject({ name: 'StockroomError', code });
    expect(seen).toHaveLength(1);
  });

  it('where nobody listens', async () => {
    const { url } = await answering([ok]);
    await new Promise((resolve) => server!.close(resolve));
    server = undefined;
    const error = await new Stockroom({ baseUrl: url }).get('k').catch((reason: unknown) => reason);
    expect(error).toMatchObject({ name: 'StockroomError', status: 0, code: 'network', detail: expect.stringContaining('ECONNREFUSED') });
  });
});

describe('time', () => {
  const never: Reply = () => {};
  const stalled: Reply = (response) => void response.writeHead(200, { 'Content-Length': '10' }).write('1');

  it.each([
    ['never answers', never],
    ['stops in the middle', stalled],
  ])('is limited where the server %s', async (_, reply) => {
    const { stockroom } = await answering([reply], { timeoutMs: 50 });
    await expect(stockroom.get('k')).rejects.toMatchObject({ name: 'StockroomError', status: 0, code: 'timeout' });
  });

  it('is limited by the call, if it says so', async () => {
    const { stockroom } = await answering([never]);
    await expect(stockroom.get('k', { timeoutMs: 50 })).rejects.toMatchObject({ code: 'timeout' });
    const slow: Reply = (response) => void setTimeout(() => ok(response), 100);
    const patient = await answering([slow], { timeoutMs: 10 });
    expect(await patient.stockroom.get('k', { timeoutMs: Number.POSITIVE_INFINITY })).toBe(1);
  });

  it('is limited with the retries', async () => {
    let waiting: ServerResponse | undefined;
    const { stockroom, seen } = await answering([busy, (response) => void (waiting = response)], { timeoutMs: 2000 });
    await expect(stockroom.get('k')).rejects.toMatchObject({ code: 'timeout' });
    expect(seen).toHaveLength(2);
    expect(waiting).toBeDefined();
  });

  it('ends when the caller aborts', async () => {
    const reason = new Error('enough');
    const aborted = await answering([never]);
    await expect(aborted.stockroom.get('k', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(aborted.seen).toHaveLength(0);

    const controller = new AbortController();
    const running = await answering([() => controller.abort(reason)]);
    await expect(running.stockroom.get('k', { signal: controller.signal })).rejects.toBe(reason);

    const second = new AbortController();
    const waiting = await answering([
      (response) => {
        response.on('close', () => setImmediate(() => second.abort(reason)));
        problem(503, 'busy', { 'Retry-After': '30' })(response);
      },
    ]);
    await expect(waiting.stockroom.get('k', { signal: second.signal })).rejects.toBe(reason);
    expect(waiting.seen).toHaveLength(1);
  });

  it.each([0, -1, Number.NaN])('has to be some (%s)', async (timeoutMs) => {
    expect(() => new Stockroom({ timeoutMs })).toThrow(RangeError);
  });
});

describe('the address', () => {
  it('may have a path, and takes the headers and the key', async () => {
    const { url, seen } = await answering([ok]);
    const stockroom = new Stockroom({ baseUrl: `${url}/store/`, apiKey: 'secret', headers: { 'X-Team': 'ui' } });
    await stockroom.get('a/b');
    expect(seen[0]).toMatchObject({ url: '/store/v1/items/a%2Fb', headers: { authorization: 'Bearer secret', 'x-team': 'ui' } });
  });

  it('is wrong where something else answers', async () => {
    const page = (status: number): Reply => (response) => void response.writeHead(status).end('<h1>Hello</h1>');
    const { stockroom } = await answering([page(404)]);
    await expect(stockroom.get('k')).rejects.toMatchObject({ status: 404, code: 'not_found', detail: expect.stringContaining('404') });
    await expect(stockroom.delete('k')).rejects.toMatchObject({ status: 404 });
    expect(() => new Stockroom({ baseUrl: 'not a URL' })).toThrow(TypeError);
    expect(() => new Stockroom({ baseUrl: 'ftp://host' })).toThrow(TypeError);
  });
});
