import { AsyncResource } from 'node:async_hooks'

/** A pending timer of a {@link Clock}; opaque to everyone but the clock that made it. */
export type Timer = object

/** The only source of time of the plugin. Tests inject a manual one. */
export interface Clock {
  /** Milliseconds since the Unix epoch, monotonic: a change of the system's time does not move it. */
  now(): number
  /**
   * Calls `callback` once after `delayMs` (0…2 147 483 647). A pending timer does not keep the process alive, unless
   * `keepsAlive`: for whoever is waited for, such as a shutdown.
   */
  setTimer(callback: () => void, delayMs: number, keepsAlive?: boolean): Timer
  clearTimer(timer: Timer): void
}

/**
 * The clock of the machine. Timers run in the async context of this call, because one that is armed while a request is
 * served would otherwise hold that request's `AsyncLocalStorage` store until it fires.
 */
export function createSystemClock(): Clock {
  const context = new AsyncResource('fastify-resumable-sse:timer')
  const origin = performance.timeOrigin
  return {
    now: () => origin + performance.now(),
    setTimer: (callback, delayMs, keepsAlive) => {
      const timer = context.runInAsyncScope(startTimer, undefined, callback, delayMs)
      return keepsAlive === true ? timer : timer.unref()
    },
    clearTimer: (timer) => clearTimeout(timer as NodeJS.Timeout)
  }
}

function startTimer(callback: () => void, delayMs: number): NodeJS.Timeout {
  return setTimeout(callback, delayMs)
}
