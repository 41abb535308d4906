/** One place of an error: in a batch a bad entry, else a place in the body. */
export interface FieldError {
  /** The key of the bad entry, in a batch. */
  key?: string;
  /** Where in the body (RFC 6901). */
  pointer?: string;
  code: string;
  detail: string;
}

export interface StockroomErrorInit {
  status: number;
  code: string;
  detail: string;
  requestId?: string;
  errors?: readonly FieldError[];
  retryAfter?: number;
  cause?: unknown;
}

/**
 * What every call fails with, unless the caller itself aborted it or passed what is no JSON value.
 *
 * Where the server answered, `status` and `code` are those of its problem; the contract lists the codes, and others
 * may be added. Where no answer came `status` is 0, and `code` is `timeout` or `network`: a write may then have
 * happened or not, as after `commit_unknown`.
 */
export class StockroomError extends Error {
  override readonly name = 'StockroomError';
  readonly status: number;
  readonly code: string;
  /** What went wrong this time, for people. Empty where only the server's log may say it. */
  readonly detail: string;
  /** The id under which the server's log has the request. */
  readonly requestId: string | undefined;
  /** The places of the error; in a batch one for each bad entry. */
  readonly errors: readonly FieldError[];
  /** After how many seconds the server wants to be asked again, where it said so. */
  readonly retryAfter: number | undefined;

  constructor(init: StockroomErrorInit) {
    const status = init.status === 0 ? '' : `${init.status} `;
    super(`${status}${init.code}${init.detail === '' ? '' : `: ${init.detail}`}`, { cause: init.cause });
    this.status = init.status;
    this.code = init.code;
    this.detail = init.detail;
    this.requestId = init.requestId;
    this.errors = init.errors ?? [];
    this.retryAfter = init.retryAfter;
  }
}

// What an answer without a problem means: HEAD has no body, and a proxy may answer in the server's place.
const codes: Record<number, string> = {
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not_found',
  405: 'method_not_allowed',
  412: 'precondition_failed',
  429: 'rate_limited',
  500: 'internal',
  503: 'unavailable',
};

/** Returns the error that an answer stands for; body is what it holds, parsed where it is JSON. */
export function errorOf(response: Response, body: unknown): StockroomError {
  const problem = isProblem(body) ? body : undefined;
  return new StockroomError({
    status: response.status,
    code: problem?.code ?? codes[response.status] ?? 'unknown',
    detail: problem?.detail ?? `the server answered ${response.status} ${response.statusText}`.trimEnd(),
    requestId: problem?.request_id ?? response.headers.get('X-Request-Id') ?? undefined,
    errors: problem?.errors,
    retryAfter: retryAfter(response.headers),
  });
}

interface Problem {
  code: string;
  detail: string;
  request_id?: string;
  errors?: FieldError[];
}

/** Tells a problem of Stockroom's from what else may stand in a body. */
export function isProblem(body: unknown): body is Problem {
  return (
    typeof body === 'object' &&
    body !== null &&
    'code' in body &&
    typeof body.code === 'string' &&
    'detail' in body &&
    typeof body.detail === 'string'
  );
}

/** Returns the seconds that Retry-After asks for, in either of its forms (RFC 9110), or undefined. */
export function retryAfter(headers: Headers): number | undefined {
  const value = headers.get('Retry-After')?.trim();
  if (value === undefined || value === '') return undefined;
  if (/^\d+$/.test(value)) return Number(value);
  const at = Date.parse(value);
  return Number.isNaN(at) ? undefined : Math.max(0, (at - Date.now()) / 1000);
}
