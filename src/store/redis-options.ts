import { MAX_MILLISECONDS } from '../frame.ts'
import { validate, type Rules } from '../option-rules.ts'

/** Options of `redisStore()`. */
export interface RedisStoreOptions {
  /**
   * What all keys and channels begin with. Registrations with the same prefix share their streams.
   *
   * @defaultValue 'rsse'
   * @throws FST_ERR_RSSE_OPTION_INVALID unless in `[A-Za-z0-9:_-]{1,64}`
   */
  readonly prefix?: string | undefined
  /**
   * How long the instance that runs a stream counts as alive without a sign of life, in milliseconds; the same for all
   * instances. A short one finds a dead process sooner, and takes a busy one for dead sooner. A command may take a third
   * of it.
   *
   * @defaultValue 15_000
   * @throws FST_ERR_RSSE_OPTION_INVALID unless an integer in 300…2 147 483 647
   */
  readonly lease?: number | undefined
  /**
   * How often an instance looks for news of the streams of others by itself, in milliseconds, give or take a half. It
   * bounds the delay where a notification was lost.
   *
   * @defaultValue 2_000
   * @throws FST_ERR_RSSE_OPTION_INVALID unless an integer in 50…2 147 483 647
   */
  readonly pollInterval?: number | undefined
}

export interface RedisSettings {
  readonly prefix: string
  readonly leaseMs: number
  readonly pollMs: number
}

const MIN_LEASE_MS = 300
const MIN_POLL_MS = 50

const RULES: Rules = {
  prefix: {
    isValid: (value) => typeof value === 'string' && /^[A-Za-z0-9:_-]{1,64}$/.test(value),
    allowed: 'Use 1 to 64 characters of A-Z, a-z, 0-9, ":", "_" and "-".'
  },
  lease: milliseconds(MIN_LEASE_MS),
  pollInterval: milliseconds(MIN_POLL_MS)
}

function milliseconds(min: number): Rules[string] {
  return {
    isValid: (value) => Number.isInteger(value) && (value as number) >= min && (value as number) <= MAX_MILLISECONDS,
    allowed: `Use milliseconds, an integer in ${min}…${MAX_MILLISECONDS}.`
  }
}

/** @throws FST_ERR_RSSE_OPTION_INVALID, naming the option, the value and what is allowed */
export function resolveRedisOptions(options: RedisStoreOptions | undefined): RedisSettings {
  if (options !== undefined) validate(options, RULES)
  return {
    prefix: options?.prefix ?? 'rsse',
    leaseMs: options?.lease ?? 15_000,
    pollMs: options?.pollInterval ?? 2_000
  }
}
