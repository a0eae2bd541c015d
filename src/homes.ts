import type { FastifyBaseLogger } from 'fastify'
import type { Clock, Timer } from './clock.ts'
import type { EventStream } from './event-stream.ts'
import { logSafely } from './log-safely.ts'
import { Mirror, type MirrorHost } from './mirror.ts'
import type { Registry } from './registry.ts'
import type { StoreAccess } from './store-access.ts'
import type { NewLife, StreamAddress } from './store/store.ts'

// How long, while the instance closes, until the store is brought again what it has refused.
const RETRY_MS = 200

/** The streams that run in this process and are copied into the store. */
export class Homes implements MirrorHost {
  readonly #registry: Registry
  readonly #access: StoreAccess
  readonly clock: Clock
  readonly #log: FastifyBaseLogger
  readonly #mirrors = new Map<EventStream, Mirror>()
  #onAllMirrored: (() => void) | undefined

  constructor(registry: Registry, access: StoreAccess, clock: Clock, log: FastifyBaseLogger) {
    this.#registry = registry
    this.#access = access
    this.clock = clock
    this.#log = log
  }

  /** Copies a stream that has just been started. */
  add(stream: EventStream, life: NewLife): void {
    const mirror = new Mirror(stream, life, this.#access, this.#registry.turn, this)
    this.#mirrors.set(stream, mirror)
    stream.readers.mirror = mirror
    mirror.pump()
  }

  /** Whether the store does not have all of it yet. */
  has(stream: EventStream): boolean {
    return this.#mirrors.has(stream)
  }

  /** Somebody on another instance wants a stream of ours stopped. */
  stop({ streamId, owner }: StreamAddress, epoch: string): void {
    const stream = this.#registry.find(streamId, owner)
    if (stream?.epoch === epoch && stream.isHome) this.onStopped(stream)
  }

  /** Says that those live which had nothing to say for `silenceMs`, and tries again what failed. */
  beat(silenceMs: number): void {
    for (const mirror of this.#mirrors.values()) mirror.beat(silenceMs)
  }

  /** The store is back. */
  retry(): void {
    for (const mirror of this.#mirrors.values()) mirror.retry()
  }

  onMirrored({ stream, hasClients }: Mirror, error?: unknown): void {
    this.#mirrors.delete(stream)
    if (error !== undefined) {
      logSafely(this.#log, 'error', { streamId: stream.streamId }, 'stream not shared', error)
      // From now on nothing is heard of them.
      if (hasClients && !stream.isFinished) stream.onRemoteClientsChanged()
    }
    if (this.#mirrors.size === 0) this.#onAllMirrored?.()
  }

  onStopped(stream: EventStream): void {
    stream.abort('aborted', 'Stopped from another instance')
  }

  onFenced(stream: EventStream): void {
    const { streamId } = stream
    logSafely(
      this.#log,
      'warn',
      { streamId },
      'the store counts this stream as lost, or gave its name away: it was stopped'
    )
    this.#registry.drop(stream)
  }

  /** Brings the store what it does not have, for at most `timeoutMs`. All streams have finished. */
  async close(timeoutMs: number): Promise<void> {
    let timer: Timer | undefined
    const retry = (): void => {
      this.retry()
      timer = this.clock.setTimer(retry, RETRY_MS)
    }
    retry()
    await this.#allMirrored(timeoutMs)
    if (timer !== undefined) this.clock.clearTimer(timer)
    for (const mirror of this.#mirrors.values()) mirror.giveUp()
  }

  #allMirrored(timeoutMs: number): Promise<void> {
    if (this.#mirrors.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = this.clock.setTimer(resolve, timeoutMs, true)
      this.#onAllMirrored = () => {
        this.clock.clearTimer(timer)
        resolve()
      }
    })
  }
}
