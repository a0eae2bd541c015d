import { inspectValue, StoreInvalidError, type ClientErrorCode } from '../errors.ts'
import type { StreamOutcome } from '../frame.ts'
import type { Batch, Finish, StoredPace, StoredStream } from './store.ts'

// What scripts answer, and messages bring. Anybody who can write to the store can have written it: every part is checked.

const OUTCOMES: ReadonlySet<string> = new Set([
  'completed',
  'failed',
  'aborted',
  'evicted',
  'lost'
] satisfies StreamOutcome[])
const ERROR_CODES: ReadonlySet<string> = new Set([
  'STREAM_FAILED',
  'STREAM_TIMEOUT',
  'STREAM_UNAVAILABLE',
  'STREAM_ABORTED',
  'STREAM_EVICTED',
  'STREAM_LOST',
  'EVENT_TOO_LARGE',
  'EVENT_INVALID'
] satisfies ClientErrorCode[])

/** Reads the parts of one answer in order. */
export class AnswerReader {
  readonly #parts: readonly unknown[]
  #next = 0

  constructor(answer: unknown) {
    if (!Array.isArray(answer)) throw notOurs(answer)
    this.#parts = answer
  }

  bytes(): Buffer {
    const part = this.#parts[this.#next++]
    if (Buffer.isBuffer(part)) return part
    throw notOurs(part)
  }

  text(): string {
    return this.bytes().toString()
  }

  optionalText(): string | undefined {
    if (this.#parts[this.#next] != null) return this.text()
    this.#next++
    return undefined
  }

  number(): number {
    return readNumber(this.text())
  }

  optionalNumber(): number | undefined {
    const text = this.optionalText()
    return text === undefined ? undefined : readNumber(text)
  }

  list(): readonly unknown[] {
    const part = this.#parts[this.#next++]
    if (Array.isArray(part)) return part
    throw notOurs(part)
  }
}

export function readNumber(text: string): number {
  const number = Number(text)
  if (/^\d{1,16}$/.test(text) && Number.isSafeInteger(number)) return number
  throw notOurs(text)
}

export function readStream(answer: unknown): StoredStream {
  const parts = new AnswerReader(answer)
  const stream = {
    epoch: parts.text(),
    home: parts.text(),
    beat: parts.number(),
    beatAgeMs: parts.number(),
    firstSequence: parts.number(),
    lastSequence: parts.number(),
    ttlMs: parts.number(),
    startedAt: parts.number(),
    pace: readPace(parts.optionalText() ?? ''),
    isStopped: parts.optionalText() === '1',
    route: parts.optionalText()
  }
  const outcome = parts.optionalText()
  if (outcome === undefined) return { ...stream, finish: undefined }
  const [finishedAt, code, message] = [parts.number(), parts.optionalText(), parts.optionalText()]
  return { ...stream, isStopped: false, finish: readFinish({ outcome, finishedAt, code, message }) }
}

export function writePace(pace: StoredPace | undefined): string {
  return pace === undefined ? '' : `${pace.by} ${pace.events} ${pace.bytes}`
}

function readPace(text: string): StoredPace | undefined {
  if (text === '') return undefined
  const [by, events = '', bytes = ''] = text.split(' ', 3)
  if (by !== 'fastest' && by !== 'slowest') throw notOurs(text)
  return { by, events: readNumber(events), bytes: readNumber(bytes) }
}

/** @throws FST_ERR_RSSE_STORE_INVALID where it is no finish of ours */
export function readFinish({ outcome, finishedAt, code, message }: Record<string, unknown>): Finish {
  if (typeof outcome !== 'string' || !OUTCOMES.has(outcome)) throw notOurs(outcome)
  if (!isTime(finishedAt)) throw notOurs(finishedAt)
  if (code === undefined) return { outcome: outcome as StreamOutcome, error: undefined, finishedAt }
  if (typeof code !== 'string' || !ERROR_CODES.has(code)) throw notOurs(code)
  if (typeof message !== 'string') throw notOurs(message)
  return { outcome: outcome as StreamOutcome, error: { code: code as ClientErrorCode, message }, finishedAt }
}

function isTime(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

/** The entries of a log, from the one that has what follows `after`. */
export function readBatches(entries: readonly unknown[], after: number): Batch[] {
  let last: number | undefined
  return entries.map((entry) => {
    const parts = new AnswerReader(entry)
    const id = /^(\d{1,15})-0$/.exec(parts.text())?.[1]
    const [, frames, , lengths, ...rest] = parts.list()
    if (id === undefined || !Buffer.isBuffer(frames) || !Buffer.isBuffer(lengths) || rest.length > 0)
      throw notOurs(entry)
    const batch = readBatch(Number(id), frames, readLengths(lengths.toString()))
    if (Number(id) <= after || (last !== undefined && batch.firstSequence !== last + 1)) throw notOurs(`entry ${id}`)
    last = Number(id)
    return batch
  })
}

/** @throws FST_ERR_RSSE_STORE_INVALID where the lengths are not those of the frames */
export function readBatch(lastSequence: number, frames: Buffer, lengths: readonly number[]): Batch {
  const firstSequence = lastSequence - lengths.length + 1
  let bytes = 0
  for (const length of lengths) {
    if (!Number.isSafeInteger(length) || length < 1) throw notOurs(length)
    bytes += length
  }
  if (firstSequence < 1 || lengths.length === 0 || bytes !== frames.length)
    throw notOurs(`${bytes} of ${frames.length} bytes`)
  return { firstSequence, frames, lengths }
}

export function writeLengths(lengths: readonly number[]): string {
  return lengths.join(',')
}

export function readLengths(text: string): number[] {
  return text.split(',').map(readNumber)
}

/** What is there is of another version, or of somebody else. */
export function notOurs(found: unknown): Error {
  return new StoreInvalidError(
    `found ${inspectValue(Buffer.isBuffer(found) ? found.toString() : found)} where this version keeps its streams. ` +
      'Give each application, and each version that reads another format, a prefix of its own.'
  )
}
