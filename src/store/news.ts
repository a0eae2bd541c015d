import type { Finish, News, StreamAddress } from './store.ts'
import { parseName } from './address.ts'
import { readBatch, readFinish, readLengths, readNumber } from './record.ts'
import { FORMAT } from './scripts.ts'

const LINE_FEED = 10
// Format, keep, last, lengths of the frames that come along, epoch: made by the scripts.
const HEAD = /^(\S+) (\d{1,16}) (\d{1,16}) (\S+) (.*)$/

/** The line for the end of a stream. */
export function writeFinish({ outcome, finishedAt, error }: Finish): string {
  return JSON.stringify({ outcome, finishedAt: Math.floor(finishedAt), ...error })
}

/** Reads a message; undefined where it is not ours: nothing is lost by that, news are a hint. */
export function readNews(message: Buffer): News | undefined {
  const headEnd = message.indexOf(LINE_FEED)
  const finishEnd = message.indexOf(LINE_FEED, headEnd + 1)
  const [, format, keep = '', last = '', lengths = '-', epoch] =
    HEAD.exec(message.toString('utf8', 0, Math.max(0, headEnd))) ?? []
  if (format !== FORMAT || epoch === undefined || finishEnd < 0) return undefined
  try {
    const lastSequence = readNumber(last)
    return {
      epoch,
      keep: readNumber(keep),
      lastSequence,
      batch:
        lengths === '-' ? undefined : readBatch(lastSequence, message.subarray(finishEnd + 1), readLengths(lengths)),
      finish: finishEnd === headEnd + 1 ? undefined : parseFinish(message.toString('utf8', headEnd + 1, finishEnd))
    }
  } catch {
    return undefined
  }
}

function parseFinish(text: string): Finish {
  return readFinish(JSON.parse(text) as Record<string, unknown>)
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
