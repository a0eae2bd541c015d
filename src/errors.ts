import createError from '@fastify/error'

/** A class of errors with one code and one status; `new` takes the parts of the message that differ. */
export type CodedError<
  Code extends string,
  Status extends number,
  Args extends unknown[]
> = createError.FastifyErrorConstructor<{ code: Code; statusCode: Status }, Args>

// The codes are API: one that was published keeps its meaning for ever. Every message says what is wrong, shows the
// value that was received and ends with the fix.

/** An option is unknown, of a wrong type or out of its range; the registration or the call throws it. */
export const OptionInvalidError: CodedError<'FST_ERR_RSSE_OPTION_INVALID', 500, [string, string, string]> = createError(
  'FST_ERR_RSSE_OPTION_INVALID',
  'Invalid option "%s": received %s. %s',
  500
)

/** The name of a stream is not in `[A-Za-z0-9_-]{1,256}`. */
export const StreamIdInvalidError: CodedError<'FST_ERR_RSSE_STREAM_ID_INVALID', 400, [string]> = createError(
  'FST_ERR_RSSE_STREAM_ID_INVALID',
  'Invalid streamId: received %s. Use 1 to 256 characters of A-Z, a-z, 0-9, "_" and "-".',
  400
)

/** An owner is not a non-empty string; "nobody is logged in" must never become a namespace that strangers share. */
export const OwnerInvalidError: CodedError<'FST_ERR_RSSE_OWNER_INVALID', 500, [string]> = createError(
  'FST_ERR_RSSE_OWNER_INVALID',
  'Invalid owner: received %s. Give a non-empty string, or refuse the request before it gets here.',
  500
)

/** `sseAttach()` found no stream of this name in this owner's namespace. */
export const StreamNotFoundError: CodedError<'FST_ERR_RSSE_STREAM_NOT_FOUND', 404, [string]> = createError(
  'FST_ERR_RSSE_STREAM_NOT_FOUND',
  'There is no stream "%s". It was never started, has expired, or belongs to somebody else.',
  404
)

/** The registry is full and its `whenFull` is `'reject'`. */
export const RegistryFullError: CodedError<'FST_ERR_RSSE_REGISTRY_FULL', 503, [string]> = createError(
  'FST_ERR_RSSE_REGISTRY_FULL',
  'No further stream can be started: %s. Come back later, or raise the limit.',
  503
)

/** The owner has `maxStreamsPerOwner` running streams already. */
export const TooManyStreamsError: CodedError<'FST_ERR_RSSE_TOO_MANY_STREAMS', 503, [number]> = createError(
  'FST_ERR_RSSE_TOO_MANY_STREAMS',
  'This owner runs %s streams already, which is maxStreamsPerOwner. Wait for one to finish, or abort one.',
  503
)

/** The stream has `maxClientsPerStream` clients already. */
export const TooManyClientsError: CodedError<'FST_ERR_RSSE_TOO_MANY_CLIENTS', 503, [number]> = createError(
  'FST_ERR_RSSE_TOO_MANY_CLIENTS',
  'This stream has %s clients already, which is maxClientsPerStream. Come back later.',
  503
)

/** `fastify.close()` was called; nothing new starts or attaches. */
export const ShuttingDownError: CodedError<'FST_ERR_RSSE_SHUTTING_DOWN', 503, []> = createError(
  'FST_ERR_RSSE_SHUTTING_DOWN',
  'The server is shutting down. Come back in a moment.',
  503
)

/** The plugin is registered twice in one scope, or inside a scope that has it already. */
export const NestedRegistrationError: CodedError<'FST_ERR_RSSE_NESTED_REGISTRATION', 500, []> = createError(
  'FST_ERR_RSSE_NESTED_REGISTRATION',
  'fastify-resumable-sse is registered in this scope already. Register it once, or in sibling scopes for separate registries.',
  500
)

/** What a generator yielded cannot be an event; thrown into the generator at that `yield`. */
export const EventInvalidError: CodedError<'FST_ERR_RSSE_EVENT_INVALID', 500, [string, { cause: unknown }?]> =
  createError('FST_ERR_RSSE_EVENT_INVALID', 'Invalid event: %s', 500)

/** An event has more than `maxEventSize` bytes on the wire; thrown into the generator at that `yield`. */
export const EventTooLargeError: CodedError<'FST_ERR_RSSE_EVENT_TOO_LARGE', 500, [number, number]> = createError(
  'FST_ERR_RSSE_EVENT_TOO_LARGE',
  'The event has %s bytes on the wire, maxEventSize allows %s. Split it, or raise maxEventSize.',
  500
)

/** The handler gave neither an iterable nor an async iterable. */
export const HandlerInvalidError: CodedError<'FST_ERR_RSSE_HANDLER_INVALID', 500, [string]> = createError(
  'FST_ERR_RSSE_HANDLER_INVALID',
  'The handler returned %s. Return a generator, an iterable or an async iterable (or a promise of one).',
  500
)

/** The `store` can never do: another kind of client or server, a missing permission, a record that is not ours. */
export const StoreInvalidError: CodedError<'FST_ERR_RSSE_STORE_INVALID', 500, [string, { cause: unknown }?]> =
  createError('FST_ERR_RSSE_STORE_INVALID', 'Invalid store: %s', 500)

/**
 * The `store` gave no answer, or refused for now; whether the call took place is not known. Clients see the message, so what
 * the server said is in the `cause`.
 */
export const StoreUnavailableError: CodedError<'FST_ERR_RSSE_STORE_UNAVAILABLE', 503, [{ cause: unknown }]> =
  createError('FST_ERR_RSSE_STORE_UNAVAILABLE', 'The store did not answer. Come back in a moment.', 503)

/** With a store, an `async` handler did not return the reply, and Fastify would have answered with nothing. */
export const ReplyNotReturnedError: CodedError<'FST_ERR_RSSE_REPLY_NOT_RETURNED', 500, []> = createError(
  'FST_ERR_RSSE_REPLY_NOT_RETURNED',
  'With a store, an async handler must "return reply.sseFromGenerator(...)": the answer is not known yet when it returns.',
  500
)

/** Whether a request was refused for now, and may come back. */
export function isRefusal(error: unknown): error is Error {
  return (
    error instanceof RegistryFullError ||
    error instanceof TooManyStreamsError ||
    error instanceof TooManyClientsError ||
    error instanceof ShuttingDownError ||
    error instanceof StoreUnavailableError
  )
}

/** A value as an error message shows it: short, safe for any input, never the whole of a large one. */
export function inspectValue(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 64 ? `${value.slice(0, 64)}…` : value)
  if (typeof value === 'number' || typeof value === 'boolean' || value == null) return String(value)
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

/** What was thrown, as an `Error`: Fastify takes anything else for a success, unless it has caught it itself. */
export function asError(thrown: unknown): Error {
  if (thrown instanceof Error) return thrown
  let message: unknown = thrown
  let statusCode: unknown
  try {
    if (typeof thrown === 'object' && thrown !== null) ({ message, statusCode } = thrown as Record<string, unknown>)
  } catch {
    // It is what it is.
  }
  const text = typeof message === 'string' ? message : `${inspectValue(thrown)} was thrown`
  return Object.assign(new Error(text, { cause: thrown }), { statusCode })
}

/** What a client may learn of the failure of a stream. */
export interface ClientError {
  readonly code: ClientErrorCode
  readonly message: string
}

/** The `code` of a `stream-error` event. */
export type ClientErrorCode =
  | 'STREAM_FAILED'
  | 'STREAM_TIMEOUT'
  | 'STREAM_UNAVAILABLE'
  | 'STREAM_ABORTED'
  | 'STREAM_EVICTED'
  | 'STREAM_LOST'
  | 'EVENT_TOO_LARGE'
  | 'EVENT_INVALID'

/**
 * What clients are told of an error that ended a generator. Decided by `name`, `code` and `statusCode`, never by message
 * text; the message is hidden unless the error says that it may be shown (`expose === true`, or a `statusCode` below
 * 500). Any thrown value is accepted, hostile getters included.
 */
export function describeError(error: unknown): ClientError {
  try {
    const { name, code, statusCode, expose, message } = Object(error) as Record<string, unknown>
    const isShown = expose === true || (typeof statusCode === 'number' && statusCode < 500)
    return {
      code: clientCode(name, code, statusCode),
      message: isShown && typeof message === 'string' ? message : 'Internal Server Error'
    }
  } catch {
    return { code: 'STREAM_FAILED', message: 'Internal Server Error' }
  }
}

function clientCode(name: unknown, code: unknown, statusCode: unknown): ClientErrorCode {
  if (code === 'FST_ERR_RSSE_EVENT_INVALID') return 'EVENT_INVALID'
  if (code === 'FST_ERR_RSSE_EVENT_TOO_LARGE') return 'EVENT_TOO_LARGE'
  if (name === 'AbortError') return 'STREAM_ABORTED'
  if (name === 'TimeoutError' || code === 'ETIMEDOUT') return 'STREAM_TIMEOUT'
  if (code === 'ECONNREFUSED' || code === 'ECONNRESET' || code === 'ENOTFOUND') return 'STREAM_UNAVAILABLE'
  if (statusCode === 502 || statusCode === 503 || statusCode === 504) return 'STREAM_UNAVAILABLE'
  return 'STREAM_FAILED'
}
