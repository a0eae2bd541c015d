import type { Append, Batch, News, StreamAddress } from './store.ts'
import { parseName } from './address.ts'
import { readBatch, readFinish } from './record.ts'
import { FORMAT } from './scripts.ts'

/** Frames up to so many bytes come along with the news; larger ones are fetched by whoever needs them. */
export const MAX_NEWS_BYTES = 8_192

const LINE_FEED = 10

/** The line that stands before the frames of the batch, if they come along. */
export function writeNews({ epoch, keep, lastSequence, batch, finish }: Append): string {
  const lengths = comesAlong(batch) ? batch.lengths : undefined
  const end = finish && { outcome: finish.outcome, finishedAt: Math.floor(finish.finishedAt), ...finish.error }
  return `${JSON.stringify({ format: Number(FORMAT), epoch, keep, last: lastSequence, lengths, finish: end })}\n`
}

export function comesAlong(batch: Batch | undefined): batch is Batch {
  return batch !== undefined && batch.frames.length <= MAX_NEWS_BYTES
}

/** Reads a message; undefined where it is not ours: nothing is lost by that, news are a hint. */
export function readNews(message: Buffer): News | undefined {
  const end = message.indexOf(LINE_FEED)
  if (end < 0) return undefined
  try {
    const line = JSON.parse(message.toString('utf8', 0, end)) as Record<string, unknown> | null
    const { format, epoch, keep, last, lengths, finish } = line ?? {}
    if (format !== Number(FORMAT) || typeof epoch !== 'string' || !isSequence(keep) || !isSequence(last))
      return undefined
    return {
      epoch,
      keep,
      lastSequence: last,
      batch: Array.isArray(lengths) ? readBatch(last, message.subarray(end + 1), lengths as number[]) : undefined,
      finish: finish === undefined ? undefined : readFinish(finish as Record<string, unknown>)
    }
  } catch {
    return undefined
  }
}

function isSequence(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

/** Reads what a home is sent: the stream that somebody wants stopped. */
export function readStop(message: Buffer): { address: StreamAddress; epoch: string } | undefined {
  const [epoch = '', name] = message.toString().split('\n', 2)
  try {
    const address = name === undefined ? undefined : parseName(name)
    return address && { address, epoch }
  } catch {
    return undefined
  }
}
