import type { Clock } from './clock.ts'
import { StoreUnavailableError } from './errors.ts'
import type {
  Append,
  AppendAnswer,
  CreateAnswer,
  News,
  NewLife,
  Page,
  Sign,
  StoredStream,
  StreamAddress,
  StreamStore
} from './store/store.ts'

/**
 * The store as the streams of one instance see it, with what they have to know about it: whether it answers well enough
 * to take the silence of a home for its death.
 */
export class StoreAccess {
  readonly leaseMs: number
  readonly instance: string
  readonly #store: StreamStore
  readonly #clock: Clock
  #troubledAt: number

  constructor(store: StreamStore, clock: Clock) {
    this.#store = store
    this.#clock = clock
    this.#troubledAt = clock.now()
    this.leaseMs = store.leaseMs
    this.instance = store.instance
  }

  now(): number {
    return this.#clock.now()
  }

  /**
   * Whether a beat that is a lease old means a dead home. After an outage followers are back before the home is, and would
   * declare every healthy stream lost: only who had prompt answers for a whole lease may judge. Who asked for nothing
   * meanwhile learns of the outage by what the store asks for itself, and who has just begun knows of none.
   */
  get isSteady(): boolean {
    return this.now() - Math.max(this.#troubledAt, this.#store.failedAt) >= this.leaseMs
  }

  /** Whether a stream runs that nobody runs any more, as far as may be judged here and now. */
  isDead({ finish, beatAgeMs }: StoredStream): boolean {
    return finish === undefined && beatAgeMs >= this.leaseMs && this.isSteady
  }

  /** Whether the same call may do better later. */
  isOutage(error: unknown): boolean {
    return error instanceof StoreUnavailableError
  }

  create(address: StreamAddress, life: NewLife, replaces?: string): Promise<CreateAnswer> {
    return this.#judge(this.#store.create(address, life, replaces))
  }

  discard(address: StreamAddress, epoch: string): Promise<void> {
    return this.#judge(this.#store.discard(address, epoch))
  }

  append(address: StreamAddress, append: Append): Promise<AppendAnswer> {
    return this.#judge(this.#store.append(address, append))
  }

  read(address: StreamAddress, after: number, maxBytes: number, sign?: Sign): Promise<Page | undefined> {
    return this.#judge(this.#store.read(address, after, maxBytes, sign))
  }

  stop(address: StreamAddress): Promise<boolean> {
    return this.#judge(this.#store.stop(address))
  }

  reap(address: StreamAddress, epoch: string, beat: number): Promise<boolean> {
    return this.#judge(this.#store.reap(address, epoch, beat))
  }

  follow(address: StreamAddress, listener: (news: News | undefined) => void): () => void {
    return this.#store.follow(address, listener)
  }

  // A process that was stopped or blocked measures its own slowness as the store's, as it should.
  async #judge<T>(call: Promise<T>): Promise<T> {
    const askedAt = this.now()
    try {
      const answer = await call
      if (this.now() - askedAt >= this.leaseMs / 3) this.#troubledAt = this.now()
      return answer
    } catch (error) {
      if (this.isOutage(error)) this.#troubledAt = this.now()
      throw error
    }
  }
}
