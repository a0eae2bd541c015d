import type { FastifyRequest } from 'fastify'
import type { Serialize, SseInput } from './frame.ts'
import type { StreamStore } from './store/store.ts'

/** Who paces the producer of a stream. */
export type Backpressure = 'fastest' | 'slowest' | 'none'

/**
 * What holds for a stream from its start on. Given per call, these count when the call starts the stream; when it attaches
 * to an existing one they are validated and unused.
 */
export interface StreamLifeOptions {
  /**
   * How long a finished stream stays replayable, in milliseconds, counted from the moment its last client leaves. A client
   * that attaches stops the countdown; a full one starts when it leaves. `0` removes the stream at once.
   *
   * @defaultValue 600_000
   */
  bufferTTL?: number | undefined
  /**
   * How long a running stream goes on without any client before it is aborted, in milliseconds. `Infinity` is for ever.
   * `0` aborts it as soon as its last client leaves, and never touches a stream that had none.
   *
   * @defaultValue 600_000
   */
  orphanTimeout?: number | undefined
  /**
   * Retained events per stream, at least 1.
   *
   * @defaultValue 10_000
   */
  bufferSize?: number | undefined
  /**
   * Retained bytes per stream, as on the wire, at least 1. Three quarters of it should exceed what the socket of a client
   * holds in flight (3.0-4.7 MiB on Linux), or a client that drops may meet a gap.
   *
   * @defaultValue 8 MiB
   */
  bufferBytes?: number | undefined
  /**
   * The largest event, in bytes on the wire, at most `bufferBytes`. A larger one is thrown back into the generator.
   *
   * @defaultValue 1 MiB, or `bufferBytes` where that is smaller
   */
  maxEventSize?: number | undefined
  /**
   * - `'fastest'`: the client that is furthest ahead; with none attached the producer runs free.
   * - `'slowest'`: the one that is furthest behind, so that no attached client misses anything. While nobody is attached
   *   the producer waits where the last client stood, at the latest when the log is full. For exports and query results.
   * - `'none'`: nobody.
   *
   * @defaultValue 'fastest'
   */
  backpressure?: Backpressure | undefined
  /**
   * Turns `data` that is no string into one. A throw or another type is thrown into the generator.
   *
   * @defaultValue JSON.stringify
   */
  serialize?: Serialize | undefined
}

/** What holds for one response. */
export interface ClientOptions {
  /**
   * A comment is sent to a client that was sent nothing for this long, in milliseconds. `0` is off.
   *
   * @defaultValue 15_000
   */
  heartbeatInterval?: number | undefined
  /**
   * A client whose socket took no byte for this long while bytes wait is cut off, in milliseconds; it can resume.
   * `Infinity` is never.
   *
   * @defaultValue 30_000
   */
  stallTimeout?: number | undefined
  /**
   * A response older than this (±20 %) is truncated, in milliseconds; the client resumes. `Infinity` is never.
   *
   * @defaultValue Infinity
   */
  maxConnectionAge?: number | undefined
  /**
   * The reconnect delay that is sent to each client, in milliseconds, ±50 % per connection so that clients do not come
   * back in step. `false` sends none.
   *
   * @defaultValue 3_000
   */
  retry?: number | false | undefined
  /**
   * `false` sends comments and blocks with nothing but `retry:` or `id:` in place of `stream-…` events, for clients that
   * parse every `data:` as their own. Such streams should be named.
   *
   * @defaultValue true
   */
  controlEvents?: boolean | undefined
}

/** Options of the plugin, for every stream and client of the scope that registers it. */
export interface StreamPluginOptions extends StreamLifeOptions, ClientOptions {
  /**
   * Shares the streams with the other instances of the application, such as `redisStore()` of
   * `fastify-resumable-sse/redis`. One store object serves one registration.
   *
   * @defaultValue none: the streams are those of this process
   */
  store?: StreamStore | undefined
  /**
   * Bytes of memory that all logs of the registry hold, at least 1. Above it finished streams are removed, then a stream
   * that appends trims its own log.
   *
   * @defaultValue 256 MiB
   */
  maxTotalBufferBytes?: number | undefined
  /**
   * Streams in the registry, running and finished, at least 1.
   *
   * @defaultValue 1_000
   */
  maxActiveStreams?: number | undefined
  /**
   * What gives way in a full registry where nothing has finished: a running stream (`'evict'`) or the newcomer
   * (`'reject'`).
   *
   * @defaultValue 'evict'
   */
  whenFull?: 'evict' | 'reject' | undefined
  /**
   * Running streams of one owner, at least 1 or `Infinity`; a further one is refused. Streams without an owner count
   * together.
   *
   * @defaultValue Infinity
   */
  maxStreamsPerOwner?: number | undefined
  /**
   * Clients of one stream, at least 1; further ones are refused.
   *
   * @defaultValue 1_000
   */
  maxClientsPerStream?: number | undefined
  /**
   * How long `fastify.close()` lets running streams finish by themselves before it aborts them, in milliseconds.
   *
   * @defaultValue 0
   */
  drainTimeout?: number | undefined
  /**
   * How long an aborted generator may run its `finally` before the plugin lets go of it, in milliseconds.
   *
   * @defaultValue 1_000
   */
  abortTimeout?: number | undefined
  /**
   * The owner of every stream of this scope, usually the authenticated user. Must return a non-empty string; throw, or
   * answer the request earlier, where nobody is logged in. Where it is set, `sseStreams.start()` needs an explicit owner.
   */
  owner?: ((request: FastifyRequest) => string) | undefined
}

/** Options of `reply.sseFromGenerator()` and `sseStreams.start()`. */
export interface StreamOptions extends StreamLifeOptions, ClientOptions {
  /** Name of the stream, `[A-Za-z0-9_-]{1,256}`. Without it clients find the stream by their cursor only. */
  streamId?: string | undefined
  /** Overrides the plugin's `owner` for this call; not empty. */
  owner?: string | undefined
  /** Aborts the producer. `request.signal` is refused: it fires as soon as the body of a POST is read. */
  signal?: AbortSignal | undefined
  /** Where a client without a cursor begins on an existing stream. @defaultValue 'start' */
  from?: 'start' | 'live' | undefined
  /** A cursor from elsewhere, such as a query parameter after a page reload. The `Last-Event-ID` header wins over it. */
  lastEventId?: string | undefined
  /**
   * What a client gets whose cursor leads to no stream: `'end'` tells it so, `'restart'` tells it so and starts a new run,
   * which gives up "one run" for a response that is lost as a whole.
   *
   * @defaultValue 'end'
   */
  onLost?: 'end' | 'restart' | undefined
}

/** `StreamOptions` for an iterable of values that are no events yet. */
export interface MappedStreamOptions<T> extends StreamOptions {
  /** Makes an event of each value. A throw is thrown into the generator. */
  map: (value: T) => SseInput
}

/** Options of `reply.sseAttach()`. */
export interface AttachOptions extends ClientOptions {
  /** Overrides the plugin's `owner` for this call; not empty. */
  owner?: string | undefined
  /** Where a client without a cursor begins. @defaultValue 'start' */
  from?: 'start' | 'live' | undefined
  /** A cursor from elsewhere, such as a query parameter after a page reload. The `Last-Event-ID` header wins over it. */
  lastEventId?: string | undefined
  /** The status where there is no cursor and no such stream. @defaultValue 404 */
  missing?: 404 | 204 | undefined
  /** What a client without a cursor gets of a stream that has finished. @defaultValue 'replay' */
  finished?: 'replay' | 204 | undefined
}
