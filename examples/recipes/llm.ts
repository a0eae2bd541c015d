import { setTimeout as sleep } from 'node:timers/promises'

/** Whatever streams text: most model clients give an async iterable, and take a signal that stops the bill. */
export type Llm = (prompt: string, signal: AbortSignal) => AsyncIterable<string>

/** Stands in for a model, so that the recipes run without a key. */
export const slowEcho: Llm = async function* (prompt, signal) {
  for (const token of `You said: ${prompt}`.match(/\S+\s*/g) ?? []) {
    await sleep(200, undefined, { signal })
    yield token
  }
}
