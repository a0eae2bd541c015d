import { EventInvalidError, inspectValue, type ClientError } from './errors.ts'

/** An event with more than data. */
export interface SseMessage {
  /** A string is sent as it is (every line of it); any other value through `serialize`, by default `JSON.stringify`. */
  data: unknown
  /** The event's type; without one it is `message`. No CR, LF or NUL, not empty, not `stream-…` (reserved). */
  event?: string | undefined
  /** Sets the client's reconnect delay from here on, in milliseconds, an integer in 0…2 147 483 647. */
  retry?: number | undefined
  /** Lines that every client ignores. */
  comment?: string | undefined
}

/** What a generator yields: a string is `data`, an object is a message. Nothing else. */
export type SseInput = string | SseMessage

/** Turns `data` that is no string into one. */
export type Serialize = (data: unknown) => string

/** How a stream finished. */
export type StreamOutcome = 'completed' | 'failed' | 'aborted' | 'evicted' | 'lost'

/** The end of a stream. */
export interface Finish {
  readonly outcome: StreamOutcome
  /** What clients are told, where it did not complete. */
  readonly error: ClientError | undefined
  /** Milliseconds since the Unix epoch. */
  readonly finishedAt: number
}

/** Why a client cannot be given exactly what follows its cursor. */
export type GapReason = 'trimmed' | 'reset' | 'lost'

/** `setTimeout` and the reconnect timers of clients overflow above this. */
export const MAX_MILLISECONDS = 2_147_483_647

// Grammar: WHATWG HTML § 9.2.5. Some clients take an id over when they read its line instead of at the end of the block,
// so `id:` is the last line of every block: whoever has an id has the event.
const LINE_BREAK = /\r\n|\r|\n/
const NOT_IN_EVENT_NAME = /[\r\n\0]/

/** How the values of one stream become events. */
export interface Encoding {
  readonly map: ((value: unknown) => SseInput) | undefined
  readonly serialize: Serialize
}

/**
 * One yielded value as its lines on the wire, without the id: `idLine()` completes it.
 *
 * @throws FST_ERR_RSSE_EVENT_INVALID if the value cannot be an event; what `map`, `serialize` or a getter threw is its cause
 */
export function encodeValue(value: unknown, { map, serialize }: Encoding): string {
  try {
    const input: unknown = map === undefined ? value : map(value)
    if (typeof input === 'string') return dataLines(input)
    if (typeof input === 'object' && input !== null) return encodeMessage(input, serialize)
    const source = map === undefined ? 'can be yielded' : 'can be returned by "map"'
    throw new EventInvalidError(`a string or an object with "data" ${source}, not ${inspectValue(input)}.`)
  } catch (error) {
    if (error instanceof EventInvalidError) throw error
    throw new EventInvalidError('making it failed; see the cause.', { cause: error })
  }
}

function encodeMessage(message: object, serialize: Serialize): string {
  let data: unknown
  let block = ''
  for (const key in message) {
    const value: unknown = message[key as keyof typeof message]
    if (value === undefined || !Object.hasOwn(message, key)) continue
    if (key === 'data') data = value
    else if (key === 'event') block += eventLine(value)
    else if (key === 'retry') block += retryLine(value)
    else if (key === 'comment') block += commentLines(value)
    else throw new EventInvalidError(unknownKey(key))
  }
  if (data === undefined) {
    throw new EventInvalidError('an object needs "data" that is not undefined; to send other objects, give a "map".')
  }
  return block + dataLines(typeof data === 'string' ? data : serialized(data, serialize))
}

function unknownKey(key: string): string {
  const fix = key === 'id' ? 'ids are made by the plugin, put yours into "data"' : 'put it into "data"'
  return `${inspectValue(key)} is not one of "data", "event", "retry", "comment"; ${fix}.`
}

function serialized(data: unknown, serialize: Serialize): string {
  const text: unknown = serialize(data)
  if (typeof text === 'string') return text
  throw new EventInvalidError(`"serialize" must return a string for "data", it returned ${inspectValue(text)}.`)
}

function dataLines(text: string): string {
  if (!text.includes('\n') && !text.includes('\r')) return `data: ${text}\n`
  return `data: ${text.split(LINE_BREAK).join('\ndata: ')}\n`
}

function eventLine(event: unknown): string {
  if (typeof event !== 'string' || event === '' || NOT_IN_EVENT_NAME.test(event)) {
    throw new EventInvalidError(
      `"event" must be a string with no CR, LF or NUL and not empty, not ${inspectValue(event)}.`
    )
  }
  if (event.startsWith('stream-')) {
    throw new EventInvalidError(`names that begin with "stream-" are reserved, rename ${inspectValue(event)}.`)
  }
  return `event: ${event}\n`
}

function retryLine(retry: unknown): string {
  if (typeof retry === 'number' && Number.isInteger(retry) && retry >= 0 && retry <= MAX_MILLISECONDS) {
    return `retry: ${retry}\n`
  }
  throw new EventInvalidError(`"retry" must be an integer in 0…${MAX_MILLISECONDS}, not ${inspectValue(retry)}.`)
}

function commentLines(comment: unknown): string {
  if (typeof comment !== 'string') {
    throw new EventInvalidError(`"comment" must be a string, not ${inspectValue(comment)}.`)
  }
  return `: ${comment.split(LINE_BREAK).join('\n: ')}\n`
}

/** Ends a block and names the place after it: whoever reads this line has everything up to `sequence`. */
export function idLine(epoch: string, sequence: number | 'end'): string {
  return `id: ${epoch}.${sequence}\n\n`
}

/** A block that clients ignore: proof of life for idle connections. */
export const HEARTBEAT = ':\n\n'

/** A block that only sets the reconnect delay. */
export function retryFrame(retryMs: number): string {
  return `retry: ${retryMs}\n\n`
}

/** First block of a client that has nothing. It carries data because some clients ignore an id without it. */
export function streamStartFrame(streamId: string, epoch: string, sequence: number): string {
  return controlBlock('stream-start', { streamId }) + idLine(epoch, sequence)
}

/** Says what is missing. It carries no id: it confirms nothing. */
export function streamGapFrame(reason: GapReason, missed: number | null, resumesAt: number | null): string {
  return `${controlBlock('stream-gap', { reason, missed, resumesAt })}\n`
}

/** Says that the stream did not complete, with a sequence of its own. */
export function streamErrorFrame(error: ClientError, epoch: string, sequence: number): string {
  return controlBlock('stream-error', { code: error.code, message: error.message }) + idLine(epoch, sequence)
}

/** The same of a stream whose process died: nobody knows which sequence comes next, so it has none. */
export function streamLostFrame(error: ClientError): string {
  return `${controlBlock('stream-error', { code: error.code, message: error.message })}\n`
}

/** Last block of a stream: a client that shows its id needs nothing any more. */
export function streamEndFrame(outcome: StreamOutcome, epoch: string): string {
  return controlBlock('stream-end', { outcome }) + idLine(epoch, 'end')
}

function controlBlock(event: string, data: object): string {
  return `event: ${event}\ndata: ${JSON.stringify(data)}\n`
}
