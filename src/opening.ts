import { idLine, streamGapFrame, streamStartFrame } from './frame.ts'
import { LOST_GAP, type Entry, type Gap, type ReplayStart } from './replay.ts'
import { retryBlock, retryLine } from './retry.ts'
import type { ClientSettings } from './settings.ts'

/**
 * What a client is sent first, at once and before anything of the stream: when to come back, what it is attached to, and
 * what it has missed.
 */
export function openingFrames(
  stream: { readonly streamId: string; readonly epoch: string },
  { arrival, cursor, from }: Entry,
  { sequence, gap }: ReplayStart,
  { retryMs, hasControlEvents }: ClientSettings
): string {
  const isAttached = arrival === 'attached'
  if (isAttached && cursor.kind !== 'none') return retryBlock(retryMs) + (hasControlEvents ? gapFrame(gap) : '')
  // Of a log that begins later this still says 0: a cut between this block and the gap must not confirm a hole.
  const has = isAttached && from === 'live' ? sequence : 0
  if (!hasControlEvents) return retryLine(retryMs) + idLine(stream.epoch, has)
  const retry = arrival === 'restarted' ? retryBlock(retryMs) + gapFrame(LOST_GAP) : retryLine(retryMs)
  return retry + streamStartFrame(stream.streamId, stream.epoch, has) + gapFrame(gap)
}

function gapFrame(gap: Gap | undefined): string {
  return gap === undefined ? '' : streamGapFrame(gap.reason, gap.missed, gap.resumesAt)
}
