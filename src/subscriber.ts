import type { Clock } from './clock.ts'
import type { EventStream } from './event-stream.ts'
import { HEARTBEAT, idLine, MAX_MILLISECONDS, retryFrame } from './frame.ts'
import type { Heartbeat, Watched } from './heartbeat.ts'
import { openingFrames } from './opening.ts'
import type { ClientReader } from './pace.ts'
import { resolveReplay, type Entry, type ReplayStart } from './replay.ts'
import { jitter, jitterRetry } from './retry.ts'
import type { ClientSettings } from './settings.ts'
import type { Transport } from './transport.ts'
import type { Task, Turn } from './turn.ts'

/** What the responses of a registry share with it. */
export interface SubscriberHost {
  readonly clock: Clock
  readonly turn: Turn
  readonly heartbeat: Heartbeat
  onOpened(resumed: boolean, gaps: number, replayedEvents: number): void
  onStalled(): void
  /** The client left in the middle. */
  onLeft(stream: EventStream): void
  /** The client is gone, or its response is through. */
  onClosed(subscriber: Subscriber): void
}

// Even where stallTimeout is next to nothing.
const MIN_LOOK_MS = 25

/**
 * One response: a position in the log of one stream, and the transport that its bytes go to.
 *
 * pending ──open──▶ open ──the end, a cut──▶ ending ──close of the transport──▶ closed, which any state may jump to.
 */
export class Subscriber implements ClientReader, Task, Watched {
  heapIndex: number = -1
  dueAt: number = Infinity

  readonly #stream: EventStream
  readonly #settings: ClientSettings
  readonly #host: SubscriberHost
  readonly #attachedAt: number
  readonly #maxAgeMs: number
  // How the client came, until its body starts.
  #entry: Entry | undefined
  #state: 'pending' | 'open' | 'ending' | 'closed' = 'pending'
  #transport: Transport | undefined

  // Invariant: every byte before #offset was handed to the transport exactly once. Only #writeSlice moves it. Until the
  // body starts it stands where it would start now.
  #offset: number
  #sequence: number
  #hasSeenError = false
  #isBlocked = false
  // Waits in the queue of the turn for its next slice.
  #isQueued = false
  // Set by a shutdown: the response is truncated once it has the rest of the log.
  #returnAfterMs: number | false | undefined

  #lastSentAt: number
  // Since when bytes wait and none was seen to be taken, and how many of #handedBytes had been taken by then.
  #waitingSince: number | undefined
  #takenBytes = 0
  #handedBytes = 0

  constructor(stream: EventStream, entry: Entry, settings: ClientSettings, host: SubscriberHost) {
    this.#stream = stream
    this.#entry = entry
    this.#settings = settings
    this.#host = host
    this.#attachedAt = host.clock.now()
    this.#lastSentAt = this.#attachedAt
    this.#maxAgeMs = jitter(settings.maxAgeMs, 0.2)
    this.#sequence = resolveReplay(entry, stream.window).sequence
    this.#offset = stream.log.offsetAfter(this.#sequence)
    stream.attach(this)
  }

  get offset(): number {
    return this.#offset
  }

  get sequence(): number {
    return this.#sequence
  }

  get heldFrom(): number {
    return this.#transport === undefined ? Infinity : this.#offset - this.#transport.waitingBytes
  }

  get isClosed(): boolean {
    return this.#state === 'closed'
  }

  // ── begin ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The body starts: only now is it decided where, since hooks may have taken their time. */
  open(transport: Transport): void {
    const entry = this.#entry
    // Whoever was sent away meanwhile must not wait for a body that never comes.
    if (this.#state === 'closed') transport.destroy()
    if (this.#state !== 'pending' || entry === undefined) return
    this.#transport = transport
    if (transport.isDestroyed) return this.leave()
    this.#state = 'open'
    this.#entry = undefined
    const start = resolveReplay(entry, this.#stream.window)
    this.#sequence = start.sequence
    this.#offset = this.#stream.log.offsetAfter(start.sequence)
    this.#hasSeenError = start.hasSeenError
    transport.hold()
    this.#send(openingFrames(this.#stream, entry, start, this.#settings))
    // Without control events it cannot be told of the gap; when it comes back it gets a 204.
    if (start.gap !== undefined && !this.#settings.hasControlEvents) return this.truncate()
    this.#announce(entry, start)
    // What a stream yields in the turn in which it starts goes out in one write with the head. That is the longest that a
    // head waits: what a generator computes before it first awaits holds it up, but like everything else in the process.
    if (entry.arrival === 'attached') this.pump()
    else this.#stream.pumpAtEndOfTurn()
    this.#stream.onAdvanced()
    if (!this.isClosed) this.#watch()
  }

  #announce({ arrival, cursor }: Entry, { gap, sequence }: ReplayStart): void {
    const gaps = Number(arrival === 'restarted') + Number(gap !== undefined)
    if (arrival !== 'attached') return this.#host.onOpened(false, gaps, 0)
    const isResumed = cursor.kind !== 'none' && gap === undefined
    this.#host.onOpened(isResumed, gaps, this.#stream.log.lastSequence - sequence)
  }

  // ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Writes a slice or so; whoever is still behind then waits for its turn, so that no replay holds up the others. */
  pump(): void {
    if (this.#state !== 'open') return
    // It was too slow, and what it wants next is gone. When it comes back it is told of the gap.
    if (this.#offset < this.#stream.log.startOffset) return this.truncate()
    const transport = this.#transport as Transport
    // What comes last goes out in one write with the end.
    if (this.#stream.isFinished) transport.hold()
    if (!this.#isBlocked && !this.#isQueued) this.#writeNext()
    transport.flush()
  }

  #writeNext(): void {
    const { log } = this.#stream
    if (this.#offset < log.endOffset) this.#writeSlices()
    if (this.#isBlocked) return
    if (this.#offset < log.endOffset) {
      this.#isQueued = true
      this.#host.turn.later(this)
    } else if (this.#stream.isFinished) this.#finish()
  }

  /** Its turn has come. */
  run(): void {
    this.#isQueued = false
    this.pump()
    this.#stream.onAdvanced()
  }

  readonly onDrain = (): void => {
    this.#isBlocked = false
    this.#waitingSince = undefined
    this.pump()
    this.#stream.onAdvanced()
  }

  // The first segments of a log are small: to a client that has it for itself, their slices go out in one write. Many
  // clients take turns, slice by slice, and share each.
  #writeSlices(): void {
    const { log, clients } = this.#stream
    const transport = this.#transport as Transport
    if (clients > 1) return void this.#writeSlice()
    let bytes = 0
    while (this.#offset < log.endOffset && bytes < transport.maxSliceBytes && !this.#isBlocked) {
      bytes += this.#writeSlice()
    }
  }

  #writeSlice(): number {
    const transport = this.#transport as Transport
    const slice = this.#stream.read(this.#offset, transport.maxSliceBytes)
    if (this.#stream.clients === 1 && slice.endOffset < this.#stream.log.endOffset) transport.hold()
    this.#offset = slice.endOffset
    this.#sequence = slice.lastSequence
    this.#sent(slice.bytes.length, transport.writeSlice(slice))
    return slice.bytes.length
  }

  #send(text: string): void {
    this.#sent(text.length, (this.#transport as Transport).write(text))
  }

  #sent(bytes: number, hasRoom: boolean): void {
    this.#lastSentAt = this.#host.turn.now
    this.#handedBytes += bytes
    if (hasRoom) return
    this.#isBlocked = true
    this.#expectProgress()
  }

  // ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  // At the end of the log of a finished stream.
  #finish(): void {
    if (this.#stream.isCut) {
      if (this.#returnAfterMs !== undefined) this.#sendAway(this.#returnAfterMs)
      return
    }
    const { outcome, epoch, errorFrame, endFrame } = this.#stream
    if (this.#settings.hasControlEvents) {
      this.#end((this.#hasSeenError ? '' : (errorFrame ?? '')) + endFrame)
    } else if (outcome === 'completed') this.#end(idLine(epoch, 'end'))
    else this.truncate()
  }

  #end(text: string): void {
    const transport = this.#transport as Transport
    this.#leaveStream('ending')
    this.#handedBytes += text.length
    transport.end(text)
    this.#expectProgress()
  }

  /** Ends the response so that the client comes back; what was written still reaches it. */
  truncate(): void {
    const transport = this.#transport as Transport
    this.#leaveStream('ending')
    transport.truncate()
    this.#expectProgress()
  }

  /** Ends the response at once, so that the client comes back. */
  destroy(): void {
    const transport = this.#transport
    this.leave()
    transport?.destroy()
  }

  /** The stream is not what it was: the client comes back for what there is now. */
  dismiss(): void {
    if (this.#state === 'open') this.truncate()
    else if (this.#state === 'pending') this.destroy()
  }

  /** The server shuts down: the rest of the log, when to return, and a truncated body, or the clean end if it is one. */
  sendAway(returnAfterMs: number): void {
    const { retryMs } = this.#settings
    this.#returnAfterMs = retryMs === false ? false : returnAfterMs + jitterRetry(retryMs)
    this.pump()
  }

  #sendAway(returnAfterMs: number | false): void {
    if (returnAfterMs !== false) this.#send(retryFrame(Math.min(MAX_MILLISECONDS, Math.ceil(returnAfterMs))))
    this.truncate()
  }

  /** The client is gone. Idempotent: whoever notices first calls it. */
  readonly leave = (): void => {
    if (this.#state === 'closed') return
    if (this.#state !== 'ending') this.#host.onLeft(this.#stream)
    this.#leaveStream('closed')
    this.#transport?.close()
    this.#transport = undefined
    this.#host.heartbeat.unwatch(this)
    this.#host.onClosed(this)
  }

  #leaveStream(state: 'ending' | 'closed'): void {
    this.#state = state
    this.#stream.detach(this)
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  // Bytes wait, or will: from here on the transport has to take some within the stall timeout.
  #expectProgress(): void {
    const transport = this.#transport
    if (transport === undefined) return
    const taken = this.#handedBytes - transport.waitingBytes
    if (this.#waitingSince === undefined || taken > this.#takenBytes) {
      this.#waitingSince = this.#host.turn.now
      this.#takenBytes = taken
    }
    this.#watch()
  }

  #watch(): void {
    this.#host.heartbeat.watch(this, this.#nextDue(this.#host.turn.now))
  }

  #nextDue(now: number): number {
    const { heartbeatMs, stallTimeoutMs } = this.#settings
    // Progress is seen only by looking: four looks in that time cut a full socket off at most a quarter late. Bytes that
    // wait in one that is not full are found at the first look, and counted from there.
    const lookMs = this.#waitingSince === undefined ? stallTimeoutMs : stallTimeoutMs / 4
    const stallDue = now + Math.max(MIN_LOOK_MS, lookMs)
    if (this.#state === 'ending') return stallDue
    const heartbeatDue = heartbeatMs === 0 ? Infinity : (this.#isBehind ? now : this.#lastSentAt) + heartbeatMs
    return Math.min(stallDue, heartbeatDue, this.#attachedAt + this.#maxAgeMs)
  }

  onDue(now: number): number {
    const transport = this.#transport
    if (transport === undefined) return Infinity
    if (this.#isStalled(transport, now)) {
      this.#host.onStalled()
      this.destroy()
      return Infinity
    }
    if (this.#state === 'open') {
      if (now - this.#attachedAt >= this.#maxAgeMs) this.truncate()
      else if (this.#wantsHeartbeat(now)) {
        this.#send(HEARTBEAT)
        this.#lastSentAt = now
      }
    }
    return this.#nextDue(now)
  }

  #isStalled(transport: Transport, now: number): boolean {
    const waiting = transport.waitingBytes
    const taken = this.#handedBytes - waiting
    if (waiting > 0 && this.#waitingSince !== undefined && taken <= this.#takenBytes) {
      return now - this.#waitingSince >= this.#settings.stallTimeoutMs
    }
    this.#waitingSince = waiting === 0 ? undefined : now
    this.#takenBytes = taken
    return false
  }

  #wantsHeartbeat(now: number): boolean {
    const { heartbeatMs } = this.#settings
    return heartbeatMs > 0 && !this.#isBehind && now - this.#lastSentAt >= heartbeatMs
  }

  get #isBehind(): boolean {
    return this.#isBlocked || this.#offset < this.#stream.log.endOffset
  }
}
