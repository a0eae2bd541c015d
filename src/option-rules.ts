import { inspectValue, OptionInvalidError } from './errors.ts'
import { MAX_MILLISECONDS } from './frame.ts'

/** What the value of one option has to be. */
interface Rule {
  readonly isValid: (value: unknown) => boolean
  readonly allowed: string
}

/** The options that one call knows. */
export type Rules = Readonly<Record<string, Rule>>

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
const aString: Rule = { isValid: (value) => typeof value === 'string', allowed: 'Use a string.' }
const anything: Rule = { isValid: () => true, allowed: '' }
const signal: Rule = { isValid: (value) => value instanceof AbortSignal, allowed: 'Use an AbortSignal.' }

const aStore: Rule = {
  // A client of ioredis has an `append`, too.
  isValid: (value) => ['open', 'append'].every((name) => typeof Object(value)[name] === 'function'),
  allowed: 'Use what a function like redisStore() returns.'
}

export const STREAM_RULES: Rules = {
  bufferTTL: milliseconds,
  orphanTimeout: millisecondsOrInfinity,
  bufferSize: count,
  bufferBytes: count,
  maxEventSize: count,
  backpressure: oneOf('fastest', 'slowest', 'none'),
  serialize: aFunction
}

export const CLIENT_RULES: Rules = {
  heartbeatInterval: milliseconds,
  stallTimeout: millisecondsOrInfinity,
  maxConnectionAge: millisecondsOrInfinity,
  retry: millisecondsOrFalse,
  controlEvents: oneOf(true, false)
}

export const PLUGIN_RULES: Rules = {
  ...STREAM_RULES,
  ...CLIENT_RULES,
  store: aStore,
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
const CALL_RULES: Rules = {
  ...CLIENT_RULES,
  owner: anything,
  from: oneOf('start', 'live'),
  lastEventId: anything
}

export const START_RULES: Rules = {
  ...STREAM_RULES,
  ...CALL_RULES,
  streamId: anything,
  signal,
  map: aFunction,
  onLost: oneOf('end', 'restart')
}

/** Of those that look a stream up, and of `abort()`. */
export const LOOK_RULES: Rules = { owner: anything }
export const ABORT_RULES: Rules = { owner: anything, reason: aString }

export const ATTACH_RULES: Rules = {
  ...CALL_RULES,
  missing: oneOf(404, 204),
  finished: oneOf('replay', 204)
}

/**
 * Holds what a user gave against the rules.
 *
 * @throws FST_ERR_RSSE_OPTION_INVALID, naming the option, the value and what is allowed
 */
export function validate(options: unknown, rules: Rules): void {
  if (typeof options !== 'object' || options === null) {
    throw new OptionInvalidError('options', inspectValue(options), 'Use an object, or leave it out.')
  }
  for (const name in options) {
    const value = (options as Record<string, unknown>)[name]
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined
    if (rule === undefined) {
      throw new OptionInvalidError(name, inspectValue(value), `There is no such option; there are: ${namesOf(rules)}.`)
    }
    if (value !== undefined && !rule.isValid(value))
      throw new OptionInvalidError(name, inspectValue(value), rule.allowed)
  }
}

/** Whether a user gave any of these options. */
export function hasAny(options: object, rules: Rules): boolean {
  for (const name in options) if (Object.hasOwn(rules, name)) return true
  return false
}

function namesOf(rules: Rules): string {
  return Object.keys(rules).join(', ')
}
