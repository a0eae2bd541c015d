import type { Clock, Timer } from './clock.ts'
import type { EventStream } from './event-stream.ts'
import type { MirrorReader, Position } from './pace.ts'
import type { StoreAccess } from './store-access.ts'
import type { Task, Turn } from './turn.ts'
import type { Append, AppendAnswer, NewLife, StreamAddress } from './store/store.ts'

/** What a mirror tells of the stream that it copies. */
export interface MirrorHost {
  readonly clock: Clock
  /** The store has all of it, or never will; then `error` says why, if it was refused. */
  onMirrored(mirror: Mirror, error?: unknown): void
  /** Somebody on another instance wants it stopped. */
  onStopped(stream: EventStream): void
  /** It is not ours any more. */
  onFenced(stream: EventStream): void
}

// Large enough that a busy stream needs few commands, small enough that one does not hold up the others.
const MAX_BATCH_BYTES = 64 * 1024

// A producer that waits for a client elsewhere has nothing to send, and learns of it by asking: soon, then less and less
// often, until the beats are as good.
const FIRST_LOOK_MS = 10

/**
 * Copies the log of a home into the store: a reader with a position, as a client is. One command is under way at a time,
 * so that batches grow with the load; a failed one is repeated from wherever the store says that it stands.
 */
export class Mirror implements MirrorReader, Task {
  readonly stream: EventStream
  readonly #address: StreamAddress
  readonly #life: NewLife
  readonly #store: StoreAccess
  readonly #turn: Turn
  readonly #host: MirrorHost
  // Everything up to here is in the store.
  #storedSequence = 0
  // Asked for at every append, and looked up when the position has moved.
  #offset = 0
  #offsetOf = 0
  #sentFrom = Infinity
  #isSending = false
  #isQueued = false
  #hasFinished = false
  #isRetrying = false
  // When the store last heard of it, or was to.
  #saidAt = -Infinity
  #failingSince: number | undefined
  // When it last answered nothing at all.
  #unansweredAt = -Infinity
  // Where the client of other instances stands that paces the stream.
  #others: number | undefined
  #onKnown: (() => void) | undefined
  #look: Timer | undefined
  #lookMs = FIRST_LOOK_MS

  constructor(stream: EventStream, life: NewLife, store: StoreAccess, turn: Turn, host: MirrorHost) {
    this.stream = stream
    this.#address = { streamId: stream.streamId, owner: stream.owner }
    this.#life = life
    this.#store = store
    this.#turn = turn
    this.#host = host
  }

  // ── a reader ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  get sequence(): number {
    return Math.max(this.#storedSequence, this.stream.log.firstSequence - 1)
  }

  get offset(): number {
    const { sequence } = this
    if (sequence !== this.#offsetOf) {
      this.#offset = this.stream.log.offsetAfter(sequence)
      this.#offsetOf = sequence
    }
    return this.#offset
  }

  get heldFrom(): number {
    return this.#sentFrom
  }

  /** While the store answers the producer waits for it; after a lease without, the stream goes on alone. */
  get isPacing(): boolean {
    return !this.isDetached
  }

  get isDetached(): boolean {
    return this.#failingSince !== undefined && this.#store.now() - this.#failingSince >= this.#store.leaseMs
  }

  get others(): Position | undefined {
    if (this.#others === undefined || this.isDetached) return undefined
    const { firstSequence, lastSequence } = this.stream.log
    // What a store says is not taken on trust.
    const sequence = Math.min(Math.max(this.#others, firstSequence - 1), lastSequence)
    return { sequence, offset: this.stream.log.offsetAfter(sequence) }
  }

  get hasClients(): boolean {
    return this.#others !== undefined
  }

  lookForClients(onKnown: () => void): void {
    this.#onKnown = onKnown
    void this.#send()
  }

  onAwaited(): void {
    const isAhead = this.#others !== undefined && this.#others < this.#storedSequence
    if (!isAhead || this.#look !== undefined || this.#hasFinished) return
    this.#look = this.#host.clock.setTimer(() => {
      this.#look = undefined
      void this.#send()
    }, this.#lookMs)
    this.#lookMs = Math.min(2 * this.#lookMs, this.#store.leaseMs / 3)
  }

  pump(): void {
    if (!this.#isRetrying && this.#hasNews) this.#sendLater()
  }

  // ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** A round of beats: whoever has been silent for so long says that it lives, and what failed is tried again. */
  beat(silenceMs: number): void {
    if (this.#isRetrying || this.#store.now() - this.#saidAt >= silenceMs) void this.#send()
  }

  /** The store is back: what failed is tried again at once. */
  retry(): void {
    void this.#send()
  }

  /** The instance closes: what the store does not have by now it will not get. */
  giveUp(): void {
    this.#finish()
  }

  get #hasNews(): boolean {
    return this.#storedSequence < this.stream.log.lastSequence || this.stream.isFinished
  }

  // At once where there is time. Where there is not, everybody else has a go first, and what comes meanwhile goes along.
  #sendLater(): void {
    if (this.#isQueued || this.#isSending) return
    this.#isQueued = true
    this.#turn.later(this)
  }

  run(): void {
    this.#isQueued = false
    void this.#send()
  }

  async #send(): Promise<void> {
    if (this.#isSending || this.#hasFinished) return
    this.#isSending = true
    let isAnswered = false
    try {
      if (this.#isRetrying) {
        await this.#giveSignOfLife()
        isAnswered = true
      }
      await this.#exchange()
    } catch (error) {
      if (!isAnswered) this.#unansweredAt = this.#store.now()
      this.#onFailed(error)
    }
    this.#isSending = false
    this.#sentFrom = Infinity
    const wantsMore = this.#hasNews || this.#onKnown !== undefined
    if (wantsMore && !this.#hasFinished && !this.#isRetrying) this.#sendLater()
    this.stream.onAdvanced()
  }

  async #exchange(): Promise<void> {
    const append = this.#next()
    await this.#ask(append, (answer) => this.#take(answer, append))
  }

  // Only an answer to what is sent from now on tells for sure of clients that have come until now.
  async #ask(append: Append, take: (answer: AppendAnswer) => void | Promise<void>): Promise<void> {
    const onKnown = this.#onKnown
    this.#onKnown = undefined
    this.#saidAt = this.#store.now()
    let isKnown = false
    try {
      const answer = await this.#store.append(this.#address, append)
      await take(answer)
      isKnown = answer.kind === 'stored'
    } finally {
      if (isKnown) onKnown?.()
      else this.#onKnown ??= onKnown
    }
  }

  // A store that is full refuses the frames and answers those who read it promptly: they would take this home for dead.
  async #giveSignOfLife(): Promise<void> {
    const { log, epoch } = this.stream
    const lastSequence = this.#storedSequence
    const keep = Math.min(log.firstSequence, lastSequence + 1)
    const beat = { epoch, ttlMs: this.#life.ttlMs, batch: undefined, lastSequence, keep, finish: undefined }
    await this.#ask(beat, (answer) => {
      // Anything else is what the exchange after this learns as well.
      if (answer.kind !== 'stored') return
      this.#learnOfClients(answer.pacing)
      if (answer.isStopped) this.#host.onStopped(this.stream)
    })
  }

  #next(): Append {
    const { log, epoch, finish, isCut } = this.stream
    const after = Math.max(this.#storedSequence, log.firstSequence - 1)
    const batch = log.batchAfter(after, MAX_BATCH_BYTES)
    if (batch !== undefined) this.#sentFrom = log.offsetAfter(after)
    const lastSequence = after + (batch?.lengths.length ?? 0)
    const { ttlMs } = this.#life
    const end = isCut && finish !== undefined ? { ...finish, outcome: 'lost' as const, error: undefined } : finish
    return {
      epoch,
      ttlMs,
      batch,
      lastSequence,
      keep: log.firstSequence,
      finish: lastSequence === log.lastSequence ? end : undefined
    }
  }

  async #take(answer: AppendAnswer, { finish }: Append): Promise<void> {
    if (answer.kind === 'fenced') return this.#lose()
    if (answer.kind === 'apart' && this.#isBeyondUs(answer.lastSequence)) return this.#lose()
    if (answer.kind === 'missing') await this.#putBack()
    this.#failingSince = undefined
    this.#isRetrying = false
    if (answer.kind === 'missing') return
    this.#storedSequence = answer.lastSequence
    if (answer.kind === 'apart') return
    this.#learnOfClients(answer.pacing)
    if (finish !== undefined) return this.#finish()
    this.stream.onAdvanced()
    if (answer.isStopped) this.#host.onStopped(this.stream)
  }

  // Then it has what another run under our epoch produced.
  #isBeyondUs(storedSequence: number): boolean {
    return storedSequence > this.stream.log.lastSequence
  }

  // The store has lost it: the whole log goes there again.
  async #putBack(): Promise<void> {
    const answer = await this.#store.create(this.#address, this.#life)
    if (answer.kind === 'there' && answer.stream.epoch !== this.stream.epoch) return this.#lose()
    const stored = answer.kind === 'there' ? answer.stream.lastSequence : 0
    if (this.#isBeyondUs(stored)) return this.#lose()
    this.#storedSequence = stored
  }

  #onFailed(error: unknown): void {
    this.#failingSince ??= this.#store.now()
    this.#isRetrying = true
    // What is refused for good would be refused again.
    if (!this.#store.isOutage(error)) this.#finish(error)
    // A removed stream would be held for as long as the store is away.
    else if (this.stream.isRemoved && this.isDetached) this.#finish()
  }

  #learnOfClients(pacing: number | undefined): void {
    const had = this.hasClients
    // After an outage the clients elsewhere are there, and their instances have yet to say so. One that only refuses frames
    // takes signs all the while.
    if (had && pacing === undefined && this.#store.now() - this.#unansweredAt < this.#store.leaseMs) return
    if (pacing !== this.#others) {
      this.#lookMs = FIRST_LOOK_MS
      this.stream.readers.pace.onOthersMoved()
    }
    this.#others = pacing
    if (had !== this.hasClients) this.stream.onRemoteClientsChanged()
  }

  #lose(): void {
    this.#finish()
    this.#host.onFenced(this.stream)
  }

  #finish(error?: unknown): void {
    if (this.#hasFinished) return
    this.#hasFinished = true
    if (this.#look !== undefined) this.#host.clock.clearTimer(this.#look)
    this.stream.detachMirror()
    this.#onKnown?.()
    this.#host.onMirrored(this, error)
  }
}
