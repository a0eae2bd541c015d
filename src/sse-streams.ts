import type { FastifyBaseLogger } from 'fastify'
import { inspectValue, isRefusal, OptionInvalidError } from './errors.ts'
import type { EventStream } from './event-stream.ts'
import type { SseInput, StreamOutcome } from './frame.ts'
import type { MappedStreamOptions, StreamOptions } from './options.ts'
import type { Handler, Registry, StartRequest, StreamContext } from './registry.ts'
import { assertHandler, assertOwner, assertStreamId, resolveStreamCall, type PluginSettings } from './settings.ts'
import type { RegistryStats } from './stats.ts'

/**
 * Makes what a stream pulls: usually an async generator function. Called once per stream, whatever clients come and go.
 *
 * @param signal aborts with the stream: on `abort()`, eviction, orphan timeout or shutdown; its reason is an `AbortError`
 */
export type StreamHandler<T> = (
  signal: AbortSignal,
  context: StreamContext
) => AsyncIterable<T> | Iterable<T> | Promise<AsyncIterable<T> | Iterable<T>>

/** A stream at one moment. */
export interface StreamInfo {
  streamId: string
  owner?: string
  state: 'running' | 'finished'
  outcome?: StreamOutcome
  /** Attached responses. */
  clients: number
  /** Oldest retained event; `lastSequence + 1` where none is. */
  firstSequence: number
  /** Newest event; 0 before the first. */
  lastSequence: number
  bufferedEvents: number
  /** Memory that the log holds. */
  bufferedBytes: number
  /** Milliseconds since the Unix epoch. */
  startedAt: number
  /** Milliseconds since the Unix epoch. */
  finishedAt?: number
}

/** The streams of one scope, as `fastify.sseStreams`. */
export interface SseStreams {
  /** Streams in the registry, running and finished. */
  readonly size: number
  /** A stream by its name; without `owner` only among those that have none. */
  get(streamId: string, options?: { owner?: string | undefined }): StreamInfo | undefined
  /** The streams of one owner; without `owner` all. */
  list(options?: { owner?: string | undefined }): StreamInfo[]
  /** Aborts every running stream. Returns how many. */
  abortAll(reason?: string): number
  stats(): RegistryStats
  /**
   * Starts a stream without a response. If there is one of this name already, its info is returned and nothing started.
   *
   * Rejects like `sseFromGenerator()` throws; where the plugin has an `owner`, the options must name one.
   */
  start<T>(handler: StreamHandler<T>, options: MappedStreamOptions<T>): Promise<StreamInfo>
  start<T extends SseInput>(handler: StreamHandler<T>, options?: StreamOptions): Promise<StreamInfo>
  /** Aborts a running stream: the stop button. `false` if there is none of this name, or if it does not run. */
  abort(streamId: string, options?: { owner?: string | undefined; reason?: string | undefined }): Promise<boolean>
}

const DEFAULT_REASON = 'Stream aborted'

/** `fastify.sseStreams` over one registry. */
export class RegistryView implements SseStreams {
  readonly #registry: Registry
  readonly #settings: PluginSettings
  readonly #log: FastifyBaseLogger

  constructor(registry: Registry, settings: PluginSettings, log: FastifyBaseLogger) {
    this.#registry = registry
    this.#settings = settings
    this.#log = log
  }

  get size(): number {
    return this.#registry.size
  }

  get(streamId: string, options?: { owner?: string | undefined }): StreamInfo | undefined {
    const stream = this.#find(streamId, options?.owner)
    return stream && infoOf(stream)
  }

  list(options?: { owner?: string | undefined }): StreamInfo[] {
    const owner = options?.owner
    if (owner !== undefined) assertOwner(owner)
    const infos: StreamInfo[] = []
    for (const stream of this.#registry.streams) {
      if (owner === undefined || stream.owner === owner) infos.push(infoOf(stream))
    }
    return infos
  }

  abortAll(reason: string = DEFAULT_REASON): number {
    assertReason(reason)
    return this.#registry.abortAll(reason)
  }

  stats(): RegistryStats {
    return this.#registry.stats()
  }

  // Not `async`, and yet it rejects: what it does is done before it returns.
  start<T>(handler: StreamHandler<T>, options?: StreamOptions): Promise<StreamInfo> {
    return settle(() => {
      assertHandler(handler)
      const call = resolveStreamCall(options, this.#settings)
      if (this.#settings.ownerOf !== undefined) assertOwner(call.owner)
      const request = { handler: handler as Handler, call, owner: call.owner, route: undefined, log: this.#log }
      return infoOf(this.#findOrStart(request))
    })
  }

  abort(streamId: string, options?: { owner?: string | undefined; reason?: string | undefined }): Promise<boolean> {
    return settle(() => {
      const reason = options?.reason ?? DEFAULT_REASON
      assertReason(reason)
      const stream = this.#find(streamId, options?.owner)
      if (stream === undefined || stream.isFinished) return false
      stream.abort('aborted', reason)
      return true
    })
  }

  #findOrStart(request: StartRequest): EventStream {
    try {
      return this.#registry.findOrStart(request).stream
    } catch (error) {
      if (isRefusal(error)) this.#registry.counters.rejected += 1
      throw error
    }
  }

  #find(streamId: string, owner: string | undefined): EventStream | undefined {
    assertStreamId(streamId)
    if (owner !== undefined) assertOwner(owner)
    return this.#registry.find(streamId, owner)
  }
}

function settle<T>(act: () => T): Promise<T> {
  return new Promise((resolve) => resolve(act()))
}

function assertReason(reason: unknown): void {
  if (typeof reason !== 'string') throw new OptionInvalidError('reason', inspectValue(reason), 'Use a string.')
}

function infoOf(stream: EventStream): StreamInfo {
  const { log } = stream
  const info: StreamInfo = {
    streamId: stream.streamId,
    state: stream.isFinished ? 'finished' : 'running',
    clients: stream.clients,
    firstSequence: log.firstSequence,
    lastSequence: log.lastSequence,
    bufferedEvents: log.events,
    bufferedBytes: log.heldBytes,
    startedAt: Math.floor(stream.startedAt)
  }
  if (stream.owner !== undefined) info.owner = stream.owner
  if (stream.outcome !== undefined) info.outcome = stream.outcome
  if (stream.finishedAt !== undefined) info.finishedAt = Math.floor(stream.finishedAt)
  return info
}
