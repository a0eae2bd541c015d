/** Tests that draw print it. The same every time, so that a failure is one of the code; another one by `SEED=…`. */
export const SEED: number = Number(process.env['SEED'] ?? 20_261_124)

export interface Random {
  /** An integer in `0 … limit - 1`. */
  below(limit: number): number
  pick<T>(values: readonly T[]): T
}

/** mulberry32: small, fast, and the same everywhere. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  const below = (limit: number): number => Math.floor((next() / 2 ** 32) * limit)
  return { below, pick: (values) => values[below(values.length)] as (typeof values)[number] }
}
