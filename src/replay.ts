import type { Cursor } from './cursor.ts'
import type { Finish, GapReason } from './frame.ts'

/**
 * How a client comes to its stream.
 *
 * - `attached`: the stream was there.
 * - `started`: its request started the stream.
 * - `restarted`: the stream of its cursor is gone, and its request started another.
 */
export type Arrival = 'attached' | 'started' | 'restarted'

/** What a client brings along when it comes to a stream. */
export interface Entry {
  readonly arrival: Arrival
  readonly cursor: Cursor
  /** Where it begins without a cursor, if it did not start the stream itself. */
  readonly from: 'start' | 'live'
}

/** What a stream has to offer to a client that attaches. */
export interface ReplayWindow {
  readonly epoch: string
  /** Oldest retained event, or `lastSequence + 1`. */
  readonly firstSequence: number
  readonly lastSequence: number
  readonly isFinished: boolean
  /** Finished because its process died: clients may have events of it that nobody else has. */
  readonly isLost: boolean
  /** Whether `stream-error` follows the last event, with the sequence `lastSequence + 1`. */
  readonly hasError: boolean
}

/** What a finish means for those who attach. A lost stream has no sequence for its `stream-error`: nobody knows the next. */
export function endOf(finish: Finish | undefined): Pick<ReplayWindow, 'isFinished' | 'isLost' | 'hasError'> {
  const isLost = finish?.outcome === 'lost'
  return { isFinished: finish !== undefined, isLost, hasError: finish?.error !== undefined && !isLost }
}

/** Where a client begins. */
export interface ReplayStart {
  /** The client has, or is told that it misses, everything up to here. */
  readonly sequence: number
  readonly gap: Gap | undefined
  /** The client has `stream-error` already, or has the whole stream. */
  readonly hasSeenError: boolean
}

/** What a client is told before the first frame that is not contiguous with its cursor. */
export interface Gap {
  readonly reason: GapReason
  /** Exact for `trimmed`, unknown otherwise. */
  readonly missed: number | null
  readonly resumesAt: number | null
}

/** The gap of a client whose stream is gone. */
export const LOST_GAP: Gap = { reason: 'lost', missed: null, resumesAt: null }

/**
 * Where a client begins, and what it is told that it missed.
 *
 * The boundaries: a cursor says "I have everything up to `sequence`", so `firstSequence - 1` is the oldest that resumes
 * without a gap and 0 is one like any other. The newest is the last event, or one more where `stream-error` follows it;
 * beyond that the cursor is ahead of this stream, hence of another life of it.
 */
export function resolveReplay({ arrival, cursor, from }: Entry, window: ReplayWindow): ReplayStart {
  const { firstSequence, lastSequence } = window
  if (arrival !== 'attached') return after(0, window)
  if (cursor.kind === 'none') {
    if (from === 'live') return { sequence: lastSequence, gap: undefined, hasSeenError: false }
    return after(0, window)
  }
  if (cursor.kind === 'malformed' || cursor.epoch !== window.epoch) return reset(firstSequence)
  if (cursor.kind === 'terminal') {
    if (!window.isFinished) return reset(firstSequence)
    return { sequence: lastSequence, gap: undefined, hasSeenError: true }
  }
  if (cursor.sequence === lastSequence + 1 && window.hasError) {
    return { sequence: lastSequence, gap: undefined, hasSeenError: true }
  }
  if (cursor.sequence <= lastSequence) return after(cursor.sequence, window)
  return window.isLost ? after(lastSequence, window) : reset(firstSequence)
}

function after(sequence: number, { firstSequence }: ReplayWindow): ReplayStart {
  if (sequence >= firstSequence - 1) return { sequence, gap: undefined, hasSeenError: false }
  const gap: Gap = { reason: 'trimmed', missed: firstSequence - 1 - sequence, resumesAt: firstSequence }
  return { sequence: firstSequence - 1, gap, hasSeenError: false }
}

function reset(firstSequence: number): ReplayStart {
  const gap: Gap = { reason: 'reset', missed: null, resumesAt: firstSequence }
  return { sequence: firstSequence - 1, gap, hasSeenError: false }
}
