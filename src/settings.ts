import type { FastifyRequest } from 'fastify'
import { inspectValue, OptionInvalidError, OwnerInvalidError, StreamIdInvalidError } from './errors.ts'
import type { Encoding, Serialize } from './frame.ts'
import {
  ATTACH_RULES,
  CLIENT_RULES,
  hasAny,
  PLUGIN_RULES,
  START_RULES,
  STREAM_RULES,
  validate
} from './option-rules.ts'
import type {
  AttachOptions,
  Backpressure,
  ClientOptions,
  StreamLifeOptions,
  StreamOptions,
  StreamPluginOptions
} from './options.ts'
import type { StreamStore } from './store/store.ts'

// An option is what a user wrote, a setting is what holds: validated, complete, with its unit in its name.

/** The settings of one stream, fixed when it starts. */
export interface StreamSettings {
  readonly ttlMs: number
  readonly orphanTimeoutMs: number
  readonly maxEvents: number
  readonly maxBytes: number
  readonly maxEventBytes: number
  readonly backpressure: Backpressure
}

/** The settings of one response. */
export interface ClientSettings {
  readonly heartbeatMs: number
  readonly stallTimeoutMs: number
  readonly maxAgeMs: number
  readonly retryMs: number | false
  readonly hasControlEvents: boolean
}

/** The settings of one registry. */
export interface RegistrySettings {
  readonly maxTotalBytes: number
  readonly maxStreams: number
  readonly whenFull: 'evict' | 'reject'
  readonly maxStreamsPerOwner: number
  readonly maxClientsPerStream: number
  readonly drainTimeoutMs: number
  readonly abortTimeoutMs: number
}

/** Everything that one registration decides. */
export interface PluginSettings {
  readonly stream: StreamSettings
  readonly client: ClientSettings
  readonly registry: RegistrySettings
  readonly serialize: Serialize
  readonly store: StreamStore | undefined
  readonly ownerOf: ((request: FastifyRequest) => string) | undefined
}

/** One call of `sseFromGenerator()` or `start()`. */
export interface StreamCall {
  readonly streamId: string | undefined
  readonly owner: string | undefined
  readonly signal: AbortSignal | undefined
  readonly encoding: Encoding
  readonly from: 'start' | 'live'
  readonly lastEventId: unknown
  readonly onLost: 'end' | 'restart'
  readonly stream: StreamSettings
  readonly client: ClientSettings
}

/** One call of `sseAttach()`. */
export interface AttachCall {
  readonly owner: string | undefined
  readonly from: 'start' | 'live'
  readonly lastEventId: unknown
  readonly missing: 404 | 204
  readonly finished: 'replay' | 204
  readonly client: ClientSettings
}

const MIB = 1024 * 1024

/** The reconnect delay that clients are told by default, in milliseconds. */
export const DEFAULT_RETRY_MS = 3_000

/**
 * Validates the options of a registration and completes them with the defaults.
 *
 * @throws FST_ERR_RSSE_OPTION_INVALID
 */
export function resolvePluginOptions(options: StreamPluginOptions = {}): PluginSettings {
  validate(options, PLUGIN_RULES)
  return {
    stream: resolveStream(options, {
      ttlMs: 600_000,
      orphanTimeoutMs: 600_000,
      maxEvents: 10_000,
      maxBytes: 8 * MIB,
      maxEventBytes: MIB,
      backpressure: 'fastest'
    }),
    client: resolveClient(options, {
      heartbeatMs: 15_000,
      stallTimeoutMs: 30_000,
      maxAgeMs: Infinity,
      retryMs: DEFAULT_RETRY_MS,
      hasControlEvents: true
    }),
    registry: {
      maxTotalBytes: options.maxTotalBufferBytes ?? 256 * MIB,
      maxStreams: options.maxActiveStreams ?? 1_000,
      whenFull: options.whenFull ?? 'evict',
      maxStreamsPerOwner: options.maxStreamsPerOwner ?? Infinity,
      maxClientsPerStream: options.maxClientsPerStream ?? 1_000,
      drainTimeoutMs: options.drainTimeout ?? 0,
      abortTimeoutMs: options.abortTimeout ?? 1_000
    },
    serialize: options.serialize ?? JSON.stringify,
    store: options.store,
    ownerOf: options.owner
  }
}

/**
 * Validates the options of one `sseFromGenerator()` or `start()`; what is not given comes from the registration.
 *
 * @throws FST_ERR_RSSE_OPTION_INVALID, FST_ERR_RSSE_STREAM_ID_INVALID, FST_ERR_RSSE_OWNER_INVALID
 */
export function resolveStreamCall(options: StreamOptions | undefined, plugin: PluginSettings): StreamCall {
  if (options === undefined) return withoutOptions(plugin)
  validate(options, START_RULES)
  if (options.streamId !== undefined) assertStreamId(options.streamId)
  if (options.owner !== undefined) assertOwner(options.owner)
  return {
    streamId: options.streamId,
    owner: options.owner,
    signal: options.signal,
    encoding: { map: (options as { map?: Encoding['map'] }).map, serialize: options.serialize ?? plugin.serialize },
    from: options.from ?? 'start',
    lastEventId: options.lastEventId,
    onLost: options.onLost ?? 'end',
    stream: resolveStream(options, plugin.stream),
    client: resolveClient(options, plugin.client)
  }
}

function withoutOptions({ stream, client, serialize }: PluginSettings): StreamCall {
  return {
    streamId: undefined,
    owner: undefined,
    signal: undefined,
    encoding: { map: undefined, serialize },
    from: 'start',
    lastEventId: undefined,
    onLost: 'end',
    stream,
    client
  }
}

/**
 * Validates the options of one `sseAttach()`.
 *
 * @throws FST_ERR_RSSE_OPTION_INVALID, FST_ERR_RSSE_OWNER_INVALID
 */
export function resolveAttachCall(options: AttachOptions = {}, plugin: PluginSettings): AttachCall {
  validate(options, ATTACH_RULES)
  if (options.owner !== undefined) assertOwner(options.owner)
  return {
    owner: options.owner,
    from: options.from ?? 'start',
    lastEventId: options.lastEventId,
    missing: options.missing ?? 404,
    finished: options.finished ?? 'replay',
    client: resolveClient(options, plugin.client)
  }
}

function resolveStream(options: StreamLifeOptions, defaults: StreamSettings): StreamSettings {
  if (!hasAny(options, STREAM_RULES)) return defaults
  const maxBytes = options.bufferBytes ?? defaults.maxBytes
  if (options.maxEventSize !== undefined && options.maxEventSize > maxBytes) {
    const allowed = `Use at most bufferBytes (${maxBytes}).`
    throw new OptionInvalidError('maxEventSize', inspectValue(options.maxEventSize), allowed)
  }
  return {
    ttlMs: options.bufferTTL ?? defaults.ttlMs,
    orphanTimeoutMs: options.orphanTimeout ?? defaults.orphanTimeoutMs,
    maxEvents: options.bufferSize ?? defaults.maxEvents,
    maxBytes,
    maxEventBytes: options.maxEventSize ?? Math.min(defaults.maxEventBytes, maxBytes),
    backpressure: options.backpressure ?? defaults.backpressure
  }
}

function resolveClient(options: ClientOptions, defaults: ClientSettings): ClientSettings {
  if (!hasAny(options, CLIENT_RULES)) return defaults
  return {
    heartbeatMs: options.heartbeatInterval ?? defaults.heartbeatMs,
    stallTimeoutMs: options.stallTimeout ?? defaults.stallTimeoutMs,
    maxAgeMs: options.maxConnectionAge ?? defaults.maxAgeMs,
    retryMs: options.retry ?? defaults.retryMs,
    hasControlEvents: options.controlEvents ?? defaults.hasControlEvents
  }
}

const STREAM_ID = /^[A-Za-z0-9_-]{1,256}$/

/** @throws FST_ERR_RSSE_STREAM_ID_INVALID */
export function assertStreamId(streamId: unknown): asserts streamId is string {
  if (typeof streamId !== 'string' || !STREAM_ID.test(streamId)) throw new StreamIdInvalidError(inspectValue(streamId))
}

/** @throws FST_ERR_RSSE_OWNER_INVALID */
export function assertOwner(owner: unknown): asserts owner is string {
  if (typeof owner !== 'string' || owner === '') throw new OwnerInvalidError(inspectValue(owner))
}

/** @throws FST_ERR_RSSE_OPTION_INVALID */
export function assertHandler(handler: unknown): void {
  if (typeof handler === 'function') return
  throw new OptionInvalidError('handler', inspectValue(handler), 'Use a function that returns an iterable.')
}
