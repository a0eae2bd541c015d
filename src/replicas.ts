import type { Clock } from './clock.ts'
import { EventStream } from './event-stream.ts'
import { Follower, type FollowerHost } from './follower.ts'
import type { Registry } from './registry.ts'
import type { StreamSettings } from './settings.ts'
import type { StoreAccess } from './store-access.ts'
import type { Page, StreamAddress } from './store/store.ts'

// A replica that nobody reads can be had again; a reload should not have to.
const LINGER_MS = 5_000
const AHEAD_LOOK_MS = 50

/** The streams that run, or ran, on other instances and are read here. */
export class Replicas implements FollowerHost {
  readonly #registry: Registry
  readonly #access: StoreAccess
  readonly #clock: Clock
  readonly #settings: StreamSettings
  readonly #followers = new Map<EventStream, Follower>()

  constructor(registry: Registry, access: StoreAccess, clock: Clock, settings: StreamSettings) {
    this.#registry = registry
    this.#access = access
    this.#clock = clock
    // The limits of its home hold for a replica: it trims what the home trims.
    this.#settings = {
      ...settings,
      ttlMs: LINGER_MS,
      maxBytes: Infinity,
      maxEvents: Infinity,
      backpressure: 'none'
    }
  }

  /**
   * Makes a replica of what the store has. It may be gone again by the end, if the store has something else by then.
   *
   * @throws FST_ERR_RSSE_SHUTTING_DOWN, FST_ERR_RSSE_REGISTRY_FULL
   */
  async add(address: StreamAddress, page: Page): Promise<EventStream> {
    const { epoch, route, firstSequence, startedAt, pace } = page.stream
    const identity = { ...address, epoch, route, startedAt }
    const stream = new EventStream(identity, this.#settings, this.#registry, { firstSequence })
    const follower = new Follower(stream, pace, this.#access, this)
    stream.follow(follower)
    this.#registry.addReplica(stream)
    this.#followers.set(stream, follower)
    try {
      await follower.load(page)
    } finally {
      stream.onLoaded()
    }
    return stream
  }

  /** Brings a replica up to a page that was read. */
  async update(stream: EventStream, page: Page): Promise<void> {
    await this.#followers.get(stream)?.load(page)
  }

  /**
   * Waits for an event that a client has seen already, or for the end (`Infinity`). Its home delivers it before the store
   * has it, and the client may come here milliseconds later.
   */
  async waitFor(stream: EventStream, sequence: number, until: number): Promise<void> {
    const follower = this.#followers.get(stream)
    if (follower === undefined) return
    while (!follower.isReleased && stream.log.lastSequence < sequence && this.#clock.now() < until) {
      await new Promise<void>((resolve) => this.#clock.setTimer(resolve, AHEAD_LOOK_MS))
      await follower.catchUp()
    }
  }

  /** Looks for what no news told of. */
  poll(): void {
    for (const follower of this.#followers.values()) follower.poll()
  }

  /**
   * Tells the store of the clients of a stream: the home of a running one counts them by it, and a finished one stays for
   * as long as it has any.
   */
  sign(stream: EventStream): void {
    const follower = this.#followers.get(stream)
    if (follower !== undefined) return follower.leaveSign()
    if (!stream.isFinished) return
    const { streamId, owner, epoch, log, readers } = stream
    const position = readers.sequenceOf('slowest') ?? log.lastSequence
    this.#access.read({ streamId, owner }, log.lastSequence, 0, { epoch, position }).catch(() => {})
  }

  /** Whether what was told last of the clients of a stream still holds. */
  isSigned(stream: EventStream): boolean {
    return this.#followers.get(stream)?.isSigned === true
  }

  onGone(stream: EventStream): void {
    this.#registry.drop(stream)
  }

  onUnfollowed({ stream }: Follower): void {
    this.#followers.delete(stream)
  }

  close(): void {
    for (const follower of this.#followers.values()) follower.letGo()
  }
}
