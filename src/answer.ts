import type { Cursor } from './cursor.ts'
import type { StreamOutcome } from './frame.ts'
import { resolveReplay, type Arrival, type ReplayWindow } from './replay.ts'
import type { AttachCall, ClientSettings, StreamCall } from './settings.ts'

/** What an answer depends on, of a stream here or elsewhere. */
export interface StreamState {
  readonly outcome: StreamOutcome | undefined
  readonly isFinished: boolean
  readonly window: ReplayWindow
}

/** What a request gets, where nothing refuses it. */
export type Answer =
  | { readonly kind: 'attach' }
  | { readonly kind: 'start'; readonly arrival: Arrival }
  /** The stream of its cursor is gone: it is told so, and that there is nothing to wait for. */
  | { readonly kind: 'lost' }
  /** It has everything that there is for it. */
  | { readonly kind: 'nothing' }
  /** There is no such stream, and it does not claim that there was. */
  | { readonly kind: 'missing' }

const ATTACH: Answer = { kind: 'attach' }
const NOTHING: Answer = { kind: 'nothing' }
const LOST: Answer = { kind: 'lost' }
const MISSING: Answer = { kind: 'missing' }

/** `sseFromGenerator()`: attaches, or starts; but a cursor whose stream is gone starts a run only where that is wanted. */
export function answerGenerator(stream: StreamState | undefined, cursor: Cursor, call: StreamCall): Answer {
  if (stream !== undefined && !isReplaceable(stream, call))
    return answerExisting(stream, cursor, call.from, call.client)
  if (cursor.kind === 'none') return { kind: 'start', arrival: 'started' }
  if (!call.client.hasControlEvents) return NOTHING
  return call.onLost === 'restart' ? { kind: 'start', arrival: 'restarted' } : LOST
}

/** A stream whose process died counts as gone where a new run is wanted in its place. */
function isReplaceable({ outcome }: StreamState, { onLost }: StreamCall): boolean {
  return outcome === 'lost' && onLost === 'restart'
}

/** `sseAttach()`: attaches, never starts. */
export function answerAttach(stream: StreamState | undefined, cursor: Cursor, call: AttachCall): Answer {
  if (stream === undefined) {
    if (cursor.kind === 'none') return MISSING
    return call.client.hasControlEvents ? LOST : NOTHING
  }
  if (call.finished === 204 && cursor.kind === 'none' && stream.isFinished) return NOTHING
  return answerExisting(stream, cursor, call.from, call.client)
}

// Without control events a gap cannot be told, and neither can an end without a last event: such a client gets nothing.
function answerExisting(stream: StreamState, cursor: Cursor, from: 'start' | 'live', client: ClientSettings): Answer {
  if (!client.hasControlEvents) {
    const { window } = stream
    const start = resolveReplay({ arrival: 'attached', cursor, from }, window)
    const isAtEnd = window.isFinished && start.sequence === window.lastSequence
    if (start.gap !== undefined || isAtEnd) return NOTHING
  }
  return ATTACH
}
