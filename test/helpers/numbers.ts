import type { StepGate } from './step-gate.ts'

/** A handler that yields `1`, `2`, … up to `count`, each as soon as the gate lets it. */
export function numbers(count: number, gate?: StepGate): (signal: AbortSignal) => AsyncGenerator<string> {
  return async function* (signal) {
    for (let number = 1; number <= count; number++) {
      if (gate) await gate.pass(signal)
      yield String(number)
    }
  }
}

/** What such a handler yields in all, from `first` on. */
export function numbersFrom(first: number, count: number): string[] {
  return Array.from({ length: count - first + 1 }, (_, index) => String(first + index))
}
