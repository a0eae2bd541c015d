import type { FastifyRequest } from 'fastify'
import { inspectValue, OptionInvalidError, OwnerInvalidError, StreamIdInvalidError } from './errors.ts'
import { MAX_MILLISECONDS, type Encoding, type Serialize } from './frame.ts'
import type { AttachOptions, Backpressure, StreamOptions, StreamPluginOptions } from './options.ts'

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

interface Rule {
  readonly isValid: (value: unknown) => boolean
  readonly allowed: string
}

const MIB = 1024 * 1024

/** The reconnect delay that clients are told by default, in milliseconds. */
export const DEFAULT_RETRY_MS = 3_000

function isIntegerIn(value: unknown, min: number, max: number): boolean {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max
}

function oneOf(...values: unknown[]): Rule {
  return { isValid: (value) => values.includes(value), allowed: `Use ${values.map(inspectValue).join(' or ')}.` }
}

const milliseconds: Rule = {
  isValid: (value) => isIntegerIn(value, 0, MAX_MILLISECONDS),
  allowed: `Use milliseconds, an integer in 0…${MAX_MILLISECONDS}.`
}
const millisecondsOrInfinity: Rule = {
  isValid: (value) => value === Infinity || milliseconds.isValid(value),
  allowed: `Use milliseconds, an integer in 0…${MAX_MILLISECONDS}, or Infinity.`
}
const millisecondsOrFalse: Rule = {
  isValid: (value) => value === false || milliseconds.isValid(value),
  allowed: `Use milliseconds, an integer in 0…${MAX_MILLISECONDS}, or false.`
}
const count: Rule = {
  isValid: (value) => isIntegerIn(value, 1, Number.MAX_SAFE_INTEGER),
  allowed: 'Use an integer of at least 1.'
}
const countOrInfinity: Rule = {
  isValid: (value) => value === Infinity || count.isValid(value),
  allowed: 'Use an integer of at least 1, or Infinity.'
}
const aFunction: Rule = { isValid: (value) => typeof value === 'function', allowed: 'Use a function.' }
const anything: Rule = { isValid: () => true, allowed: '' }
const signal: Rule = { isValid: (value) => value instanceof AbortSignal, allowed: 'Use an AbortSignal.' }

const STREAM_RULES: Readonly<Record<string, Rule>> = {
  bufferTTL: milliseconds,
  orphanTimeout: millisecondsOrInfinity,
  bufferSize: count,
  bufferBytes: count,
  maxEventSize: count,
  backpressure: oneOf('fastest', 'slowest', 'none'),
  serialize: aFunction
}

const CLIENT_RULES: Readonly<Record<string, Rule>> = {
  heartbeatInterval: milliseconds,
  stallTimeout: millisecondsOrInfinity,
  maxConnectionAge: millisecondsOrInfinity,
  retry: millisecondsOrFalse,
  controlEvents: oneOf(true, false)
}

const PLUGIN_RULES: Readonly<Record<string, Rule>> = {
  ...STREAM_RULES,
  ...CLIENT_RULES,
  maxTotalBufferBytes: count,
  maxActiveStreams: count,
  whenFull: oneOf('evict', 'reject'),
  maxStreamsPerOwner: countOrInfinity,
  maxClientsPerStream: count,
  drainTimeout: milliseconds,
  abortTimeout: milliseconds,
  owner: { isValid: aFunction.isValid, allowed: 'Use a function of the request that returns a non-empty string.' },
  // Fastify's own options of every registration.
  prefix: anything,
  logLevel: anything,
  logSerializers: anything
}

// `streamId` and `owner` have coded errors of their own; both are checked where they are resolved.
const CALL_RULES: Readonly<Record<string, Rule>> = {
  ...CLIENT_RULES,
  owner: anything,
  from: oneOf('start', 'live'),
  lastEventId: anything
}

const START_RULES: Readonly<Record<string, Rule>> = {
  ...STREAM_RULES,
  ...CALL_RULES,
  streamId: anything,
  signal,
  map: aFunction,
  onLost: oneOf('end', 'restart')
}

const ATTACH_RULES: Readonly<Record<string, Rule>> = {
  ...CALL_RULES,
  missing: oneOf(404, 204),
  finished: oneOf('replay', 204)
}

function validate(options: unknown, rules: Readonly<Record<string, Rule>>): void {
  if (typeof options !== 'object' || options === null) {
    throw new OptionInvalidError('options', inspectValue(options), 'Use an object, or leave it out.')
  }
  for (const [name, value] of Object.entries(options)) {
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined
    if (rule === undefined) {
      throw new OptionInvalidError(name, inspectValue(value), `There is no such option; there are: ${namesOf(rules)}.`)
    }
    if (value !== undefined && !rule.isValid(value))
      throw new OptionInvalidError(name, inspectValue(value), rule.allowed)
  }
}

function namesOf(rules: Readonly<Record<string, Rule>>): string {
  return Object.keys(rules).join(', ')
}

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

function resolveStream(options: StreamPluginOptions | StreamOptions, defaults: StreamSettings): StreamSettings {
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

function resolveClient(options: StreamPluginOptions | StreamOptions, defaults: ClientSettings): ClientSettings {
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
