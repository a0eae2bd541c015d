import type { FastifyBaseLogger } from 'fastify'
import { isRefusal } from './errors.ts'
import { EventStream } from './event-stream.ts'
import type { SseInput, StreamOutcome } from './frame.ts'
import { ABORT_RULES, LOOK_RULES, validate, type Rules } from './option-rules.ts'
import type { MappedStreamOptions, StreamOptions } from './options.ts'
import type { Registry } from './registry.ts'
import { assertHandler, assertOwner, assertStreamId, resolveStreamCall, type PluginSettings } from './settings.ts'
import type { SharedStreams } from './shared-streams.ts'
import type { RegistryStats } from './stats.ts'
import type { Handler, StartRequest, StreamContext } from './stream-source.ts'
import type { StoredStream, StreamAddress } from './store/store.ts'

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
  /** Whether its generator runs, or ran, in this process; always so without a store. */
  home: boolean
  /** Responses attached to it in this process. */
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
  /** A stream by its name, wherever it runs; without a store the same as `get()`. */
  find(streamId: string, options?: { owner?: string | undefined }): Promise<StreamInfo | undefined>
  /**
   * Aborts a running stream, wherever it runs: the stop button. `false` if there is none of this name, or if it does not
   * run. One that runs on another instance: `true` says that its home will be told.
   */
  abort(streamId: string, options?: { owner?: string | undefined; reason?: string | undefined }): Promise<boolean>
}

const DEFAULT_REASON = 'Stream aborted'

/** `fastify.sseStreams` over one registry. */
export class RegistryView implements SseStreams {
  readonly #registry: Registry
  readonly #shared: SharedStreams | undefined
  readonly #settings: PluginSettings
  readonly #log: FastifyBaseLogger

  constructor(registry: Registry, shared: SharedStreams | undefined, settings: PluginSettings, log: FastifyBaseLogger) {
    this.#registry = registry
    this.#shared = shared
    this.#settings = settings
    this.#log = log
  }

  get size(): number {
    return this.#registry.size
  }

  get(streamId: string, options?: { owner?: string | undefined }): StreamInfo | undefined {
    const stream = this.#find(streamId, ownerOf(options))
    return stream && infoOf(stream)
  }

  list(options?: { owner?: string | undefined }): StreamInfo[] {
    const owner = ownerOf(options)
    const infos: StreamInfo[] = []
    for (const stream of this.#registry.streams) {
      if (owner === undefined || stream.owner === owner) infos.push(infoOf(stream))
    }
    return infos
  }

  abortAll(reason: string = DEFAULT_REASON): number {
    validate({ reason }, ABORT_RULES)
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
      return this.#start(request)
    })
  }

  abort(streamId: string, options?: { owner?: string | undefined; reason?: string | undefined }): Promise<boolean> {
    return settle(() => {
      const owner = ownerOf(options, ABORT_RULES)
      const reason = options?.reason ?? DEFAULT_REASON
      const stream = this.#find(streamId, owner)
      if (stream?.isHome !== true || stream.isFinished) return this.#shared?.stop({ streamId, owner }) ?? false
      stream.abort('aborted', reason)
      return true
    })
  }

  find(streamId: string, options?: { owner?: string | undefined }): Promise<StreamInfo | undefined> {
    return settle(async () => {
      const address = { streamId, owner: ownerOf(options) }
      const here = this.#find(streamId, address.owner)
      if (this.#shared === undefined || (here?.isHome === true && !here.isFinished)) return here && infoOf(here)
      const stored = await this.#shared.look(address)
      return stored && infoOfStored(address, stored, here)
    })
  }

  async #start(request: StartRequest): Promise<StreamInfo> {
    try {
      if (this.#shared === undefined) return infoOf(this.#registry.findOrStart(request).stream)
      const there = await this.#shared.start(request)
      if (there instanceof EventStream) return infoOf(there)
      const address = { streamId: request.call.streamId as string, owner: request.owner }
      return infoOfStored(address, there, this.#registry.find(address.streamId, address.owner))
    } catch (error) {
      if (isRefusal(error)) this.#registry.counters.rejected += 1
      throw error
    }
  }

  #find(streamId: string, owner: string | undefined): EventStream | undefined {
    assertStreamId(streamId)
    return this.#registry.find(streamId, owner)
  }
}

function settle<T>(act: () => T | Promise<T>): Promise<T> {
  return new Promise((resolve) => resolve(act()))
}

function ownerOf(options: { owner?: string | undefined } = {}, rules: Rules = LOOK_RULES): string | undefined {
  validate(options, rules)
  if (options.owner !== undefined) assertOwner(options.owner)
  return options.owner
}

function infoOfStored(address: StreamAddress, stored: StoredStream, here: EventStream | undefined): StreamInfo {
  const { finish, firstSequence, lastSequence, startedAt } = stored
  const info: StreamInfo = {
    streamId: address.streamId,
    state: finish === undefined ? 'running' : 'finished',
    home: here?.isHome ?? false,
    clients: here?.clients ?? 0,
    firstSequence,
    lastSequence,
    bufferedEvents: lastSequence - firstSequence + 1,
    bufferedBytes: here?.log.heldBytes ?? 0,
    startedAt
  }
  if (address.owner !== undefined) info.owner = address.owner
  if (finish !== undefined) Object.assign(info, { outcome: finish.outcome, finishedAt: finish.finishedAt })
  return info
}

function infoOf(stream: EventStream): StreamInfo {
  const { log } = stream
  const info: StreamInfo = {
    streamId: stream.streamId,
    state: stream.isFinished ? 'finished' : 'running',
    home: stream.isHome,
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
