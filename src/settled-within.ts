import type { Clock, Timer } from './clock.ts'

/** Waits until all of `calls` have settled, however, but for at most `timeoutMs`. */
export async function settledWithin(calls: Iterable<Promise<unknown>>, timeoutMs: number, clock: Clock): Promise<void> {
  const all = [...calls]
  if (all.length === 0) return
  let timer: Timer | undefined
  const timeUp = new Promise<void>((resolve) => {
    timer = clock.setTimer(resolve, Math.max(0, timeoutMs), true)
  })
  await Promise.race([Promise.allSettled(all), timeUp])
  if (timer !== undefined) clock.clearTimer(timer)
}
