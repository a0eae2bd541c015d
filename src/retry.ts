import { HEARTBEAT, MAX_MILLISECONDS, retryFrame } from './frame.ts'

/** `value` ± `share` of it, so that clients that were cut off together do not come back together. */
export function jitter(value: number, share: number): number {
  return value * (1 - share + 2 * share * Math.random())
}

/** The reconnect delay of one connection, ±50 %. */
export function jitterRetry(retryMs: number): number {
  return Math.min(MAX_MILLISECONDS, Math.round(jitter(retryMs, 0.5)))
}

/** The field that sets the reconnect delay of one connection; empty where none is to be sent. */
export function retryLine(retryMs: number | false): string {
  return retryMs === false ? '' : `retry: ${jitterRetry(retryMs)}\n`
}

/** A block with nothing but the reconnect delay, or with nothing at all: something must be sent at once, or a proxy holds back the head. */
export function retryBlock(retryMs: number | false): string {
  return retryMs === false ? HEARTBEAT : retryFrame(jitterRetry(retryMs))
}

// What refuses a client takes a while to pass.
const REFUSED_FACTOR = 5

/** The delay of a client that is refused, jittered, but never less than `floorMs`. */
export function refusedRetryMs(retryMs: number, floorMs: number): number {
  return Math.min(MAX_MILLISECONDS, Math.max(jitterRetry(retryMs * REFUSED_FACTOR), Math.ceil(floorMs)))
}
