import type { EventStream } from './event-stream.ts'
import type { Feeder } from './feeder.ts'
import type { StoreAccess } from './store-access.ts'
import type { Finish, News, Page, Sign, StoredPace, StreamAddress } from './store/store.ts'

/** What a follower tells of its replica. */
export interface FollowerHost {
  /** The store has another life of this name, or none. */
  onGone(stream: EventStream): void
  /** Nothing is followed any more. */
  onUnfollowed(follower: Follower): void
}

/** One page of a read, in bytes: a replica of the default size is there after a few. */
export const PAGE_BYTES: number = 1024 * 1024

/**
 * Fills a replica from the store. News bring what is new; whatever does not follow what is there is read, so that a hole
 * is never passed over. One read is under way at a time.
 */
export class Follower implements Feeder {
  readonly isWaiting: boolean = false
  readonly stream: EventStream
  readonly #pace: StoredPace | undefined
  readonly #address: StreamAddress
  readonly #store: StoreAccess
  readonly #host: FollowerHost
  #unfollow: (() => void) | undefined
  #isReleased = false
  #reading: Promise<void> | undefined
  #wantsRead = false
  #wantsSign = false
  #hasNews = false
  // Whoever made the replica has left a sign on the way.
  #signedSequence = 0
  #signedAt: number
  #missingSince: number | undefined
  // Who wants to know when the replica has an event.
  #waiting: { readonly sequence: number; readonly resolve: () => void }[] = []

  constructor(stream: EventStream, pace: StoredPace | undefined, store: StoreAccess, host: FollowerHost) {
    this.stream = stream
    this.#pace = pace
    this.#signedAt = store.now()
    this.#address = { streamId: stream.streamId, owner: stream.owner }
    this.#store = store
    this.#host = host
  }

  // ── a feeder ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  get isReleased(): boolean {
    return this.#isReleased
  }

  begin(): void {
    this.#unfollow = this.#store.follow(this.#address, this.#onNews)
  }

  /** Clients have moved on; a home that waits for one of them is told now and then. */
  resume(): void {
    if (!this.#isFarFromSign(this.stream.log.lastSequence)) return
    const position = this.#position
    if (position !== undefined && this.#hasMoved(position)) this.leaveSign()
  }

  #hasMoved(position: number): boolean {
    return position < this.#signedSequence || this.#isFarFromSign(position)
  }

  #isFarFromSign(sequence: number): boolean {
    if (this.#pace === undefined) return false
    const { log } = this.stream
    const bytes = log.offsetAfter(sequence) - log.offsetAfter(this.#signedSequence)
    return sequence - this.#signedSequence >= this.#pace.events || bytes >= this.#pace.bytes
  }

  // Of the client that paces the stream.
  get #position(): number | undefined {
    return this.stream.readers.sequenceOf(this.#pace?.by ?? 'slowest')
  }

  finish(): void {
    this.letGo()
  }

  abort(): void {
    this.letGo()
  }

  letGo(): void {
    if (this.#isReleased) return
    this.#isReleased = true
    this.#unfollow?.()
    this.#host.onUnfollowed(this)
    this.stream.onReleased()
  }

  // ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Takes a page that has been read, and reads on until the replica has what the store had then. */
  async load(page: Page): Promise<void> {
    if (this.#takePage(page) && !this.#store.isDead(page.stream)) return
    // A busy stream is never caught up with for good: each read meets news of what has come since.
    const reached = this.#hasReached(page.stream.lastSequence)
    await (reached === undefined ? this.catchUp() : Promise.race([this.catchUp(), reached]))
  }

  #hasReached(sequence: number): Promise<void> | undefined {
    if (this.stream.log.lastSequence >= sequence) return undefined
    return new Promise((resolve) => this.#waiting.push({ sequence, resolve }))
  }

  #tellWaiting(): void {
    const { lastSequence } = this.stream.log
    this.#waiting = this.#waiting.filter(({ sequence, resolve }) => {
      if (sequence <= lastSequence) resolve()
      return sequence > lastSequence
    })
  }

  /** Reads until the replica has what the store has. Rejects where the store does not answer. */
  catchUp(): Promise<void> {
    this.#wantsRead = true
    this.#reading ??= this.#readOn().finally(() => (this.#reading = undefined))
    return this.#reading
  }

  /** A round of polls: whoever had no news since the last one looks for itself, or has yet to leave a sign. */
  poll(): void {
    if (!this.#hasNews || this.#wantsSign) this.#look()
    this.#hasNews = false
  }

  /** Whether the last sign says enough for now: it counts for a lease, and tells where its client stands. */
  get isSigned(): boolean {
    const position = this.#position
    const hasMoved = position !== undefined && this.#hasMoved(position)
    return !hasMoved && this.#store.now() - this.#signedAt < this.#store.leaseMs / 3
  }

  /** Tells the home that there are clients here, or were a moment ago, and where the one stands that paces the stream. */
  leaveSign(): void {
    this.#wantsSign = true
    this.#look()
  }

  // What fails now is tried again by the next poll.
  #look(): void {
    this.catchUp().catch(() => {})
  }

  readonly #onNews = (news: News | undefined): void => {
    if (this.#isReleased) return
    if (news === undefined) return this.#look()
    this.#hasNews = true
    const { epoch, batch, keep, lastSequence, finish } = news
    if (epoch !== this.stream.epoch) return this.#look()
    if (batch !== undefined && batch.firstSequence <= this.stream.nextSequence) this.stream.appendBatch(batch)
    if (this.stream.log.lastSequence < lastSequence) return this.#look()
    this.stream.trimTo(keep)
    if (finish !== undefined) this.#takeFinish(finish, lastSequence)
  }

  async #readOn(): Promise<void> {
    while (this.#wantsRead && !this.#isReleased) {
      this.#wantsRead = false
      const askedAt = this.#store.now()
      const sign = this.#signToLeave()
      const page = await this.#read(sign)
      if (sign !== undefined) this.#signedAt = askedAt
      if (this.#isReleased) return
      if (page === undefined) this.#onMissing()
      else if (page.stream.epoch !== this.stream.epoch) this.#host.onGone(this.stream)
      else if (!this.#takePage(page)) this.#wantsRead = true
      else await this.#judge(page)
    }
  }

  async #read(sign: Sign | undefined): Promise<Page | undefined> {
    try {
      return await this.#store.read(this.#address, this.stream.log.lastSequence, PAGE_BYTES, sign)
    } catch (error) {
      if (sign !== undefined) this.#wantsSign = true
      throw error
    }
  }

  #signToLeave(): Sign | undefined {
    if (!this.#wantsSign) return undefined
    this.#wantsSign = false
    this.#signedSequence = this.#position ?? this.#signedSequence
    return { epoch: this.stream.epoch, position: this.#signedSequence }
  }

  // Whether the replica has everything that the store had then.
  #takePage({ stream, batches }: Page): boolean {
    for (const batch of batches) this.stream.appendBatch(batch)
    this.stream.trimTo(stream.firstSequence)
    this.#tellWaiting()
    if (this.stream.log.lastSequence < stream.lastSequence) {
      if (batches.length > 0) return false
      // The store has lost its frames.
      this.#onMissing()
      return true
    }
    this.#missingSince = undefined
    if (stream.finish !== undefined) this.#takeFinish(stream.finish, stream.lastSequence)
    return true
  }

  #takeFinish(finish: Finish, lastSequence: number): void {
    if (this.stream.log.lastSequence >= lastSequence) this.stream.onFinished(finish)
  }

  // Its home puts the log back as soon as it notices. What nobody has put back for a lease is gone.
  #onMissing(): void {
    this.#missingSince ??= this.#store.now()
    if (this.#store.now() - this.#missingSince >= this.#store.leaseMs) this.#host.onGone(this.stream)
  }

  async #judge({ stream }: Page): Promise<void> {
    if (!this.#store.isDead(stream)) return
    if (await this.#store.reap(this.#address, stream.epoch, stream.beat)) this.#wantsRead = true
  }
}
