import type { FastifyBaseLogger } from 'fastify'
import type { Batch } from '../event-log.ts'
import type { Finish } from '../frame.ts'

export type { Batch, Finish }

/** What names a stream in the whole system. */
export interface StreamAddress {
  readonly streamId: string
  readonly owner: string | undefined
}

/** One life of a stream, as its home enters it. */
export interface NewLife {
  readonly epoch: string
  /** Of an unnamed stream: the only route that finds it by cursor. */
  readonly route: string | undefined
  /** How long the stream stays in the store after its last sign of life, in milliseconds; at least four leases. */
  readonly ttlMs: number
  /** Milliseconds since the Unix epoch. */
  readonly startedAt: number
  readonly pace: StoredPace | undefined
}

/** How a producer is paced by its clients; undefined where it is not. */
export interface StoredPace {
  readonly by: 'fastest' | 'slowest'
  /** Once this client has moved on by so many events, or bytes, its instance leaves a sign. */
  readonly events: number
  readonly bytes: number
}

/** What a home brings: a batch, the end of the stream with its last one, or neither (a beat). */
export interface Append {
  readonly epoch: string
  readonly ttlMs: number
  readonly batch: Batch | undefined
  /** Last event that the store has after this, as the home takes it: of the batch, or what it had before. */
  readonly lastSequence: number
  /** Oldest event that the home retains; older ones are trimmed. */
  readonly keep: number
  readonly finish: Finish | undefined
}

/** What the store knows of a stream, its frames aside. */
export interface StoredStream {
  readonly epoch: string
  readonly route: string | undefined
  /** The instance that runs the stream, or ran it. */
  readonly home: string
  /** Counts the signs of life of the home. */
  readonly beat: number
  /** Age of the last one by the clock of the store, in milliseconds. */
  readonly beatAgeMs: number
  readonly firstSequence: number
  readonly lastSequence: number
  readonly ttlMs: number
  readonly startedAt: number
  readonly pace: StoredPace | undefined
  /** Somebody wants it stopped, and its home has not done so yet. */
  readonly isStopped: boolean
  /** Undefined while it runs. */
  readonly finish: Finish | undefined
}

/**
 * - `made`: the stream was not there, or was replaced; it is the caller's now.
 * - `there`: somebody's, maybe the caller's own from a call whose answer was lost.
 */
export type CreateAnswer = { readonly kind: 'made' } | { readonly kind: 'there'; readonly stream: StoredStream }

/**
 * - `stored`: everything up to `lastSequence` is in the store.
 * - `apart`: the batch does not follow what is there, or without one the store has lost a tail; nothing was written, go on
 *   from `lastSequence`.
 * - `fenced`: the name is another's, or the stream was declared lost: its run has to end.
 * - `missing`: the store has lost the stream.
 */
export type AppendAnswer =
  | {
      readonly kind: 'stored'
      readonly lastSequence: number
      readonly isStopped: boolean
      /**
       * Position of the client of other instances that paces the stream (the slowest, unless it is the fastest), by signs
       * younger than a lease; undefined where none has one.
       */
      readonly pacing: number | undefined
    }
  | { readonly kind: 'apart'; readonly lastSequence: number }
  | { readonly kind: 'fenced' }
  | { readonly kind: 'missing' }

/** What an instance with clients of a stream leaves. */
export interface Sign {
  /** The life that they read; undefined for clients that are about to attach to whatever there is. */
  readonly epoch: string | undefined
  /** The last event of the client here that paces the stream. */
  readonly position: number
}

/** One page of a stream, read atomically with its state. */
export interface Page {
  readonly stream: StoredStream
  /** In order, contiguous; the first may begin before what was asked for. */
  readonly batches: readonly Batch[]
}

/** What followers are told at each append. A hint: it may be lost, late or repeated. */
export interface News {
  readonly epoch: string
  readonly keep: number
  readonly lastSequence: number
  /** Where it is small enough to come along. */
  readonly batch: Batch | undefined
  readonly finish: Finish | undefined
}

/** The instance that uses a store. */
export interface StoreHost {
  readonly log: FastifyBaseLogger
  /** A client elsewhere wants this stream of ours stopped. */
  onStop(address: StreamAddress, epoch: string): void
  /** The store answers again after it had not. */
  onReturn(): void
}

/**
 * What an instance asks of a store that several instances share. Every call is atomic, may be repeated without harm, and
 * settles within a third of the lease: it rejects with FST_ERR_RSSE_STORE_UNAVAILABLE where no answer came, whatever the
 * reason, and nothing is known then of whether it took place. A record of a format that this version does not know is
 * refused with FST_ERR_RSSE_STORE_INVALID, never guessed at.
 */
export interface StreamStore {
  /** How long a home counts as alive without a beat, in milliseconds. */
  readonly leaseMs: number
  /** How often followers look for themselves, in milliseconds. */
  readonly pollMs: number
  /** When something was last not answered, be it a question of the store's own; -Infinity before that. */
  readonly failedAt: number
  /** Name of this instance: unique, made by the store object. */
  readonly instance: string

  /**
   * Connects and probes every command and channel that is needed. Resolves also where no server answers, with a warning in
   * the log: it is tried again for as long as the store is open.
   *
   * @throws FST_ERR_RSSE_STORE_INVALID for a server or permissions that can never do
   */
  open(host: StoreHost): Promise<void>

  /** Enters a life whose home is this instance. With `replaces`, the lost life of that epoch gives way. */
  create(address: StreamAddress, life: NewLife, replaces?: string): Promise<CreateAnswer>

  /** Takes a life back that was created and never ran; does nothing where it is not there or another's. */
  discard(address: StreamAddress, epoch: string): Promise<void>

  /** Of its home only: adds what follows, says how it ended, or just that its home lives. */
  append(address: StreamAddress, append: Append): Promise<AppendAnswer>

  /**
   * What follows `after`, at most about `maxBytes` of frames (0: the state alone), but a whole batch at least. Leaves
   * `sign`, unless the stream is in another life by now: its home would take the position for one in its own.
   */
  read(address: StreamAddress, after: number, maxBytes: number, sign?: Sign): Promise<Page | undefined>

  /** Asks the home to stop; `false` where the stream of this name is not running. */
  stop(address: StreamAddress): Promise<boolean>

  /** Declares a running stream lost, if its home has not given a sign of life since `beat`. */
  reap(address: StreamAddress, epoch: string, beat: number): Promise<boolean>

  /**
   * Calls `listener` with the news of a stream until the returned function is called; with `undefined` once news come from
   * now on, at first and after every interruption: what happened before has to be read.
   */
  follow(address: StreamAddress, listener: (news: News | undefined) => void): () => void

  /** Closes what it opened. Waits at most `timeoutMs` for commands under way. */
  close(timeoutMs: number): Promise<void>
}
