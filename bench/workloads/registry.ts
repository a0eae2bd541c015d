/** registry: what does a stream cost that starts, finishes and pushes another one out, and how does that grow? */
import { ServerProcess } from '../harness/server-process.ts'
import { scene, type Goal, type Metric, type Sample, type Workload } from '../harness/workload.ts'

const PER_OPERATION: Metric = { key: 'smallest', unit: 'µs/stream' }
const LEAST_OPERATIONS = 20_000

export const registry: Workload = {
  name: 'registry',
  question: 'start, finish and evict',
  scenes: (effort) => {
    const capacities = effort.isQuick ? [1_000, 100_000] : [1_000, 10_000, 100_000, 1_000_000]
    const goals: Goal[] = [
      { atMost: 35 },
      ...(effort.isQuick ? [] : [{ metric: { key: 'growth', unit: '×' }, atMost: 2 } satisfies Goal])
    ]
    return [
      scene<{ server: ServerProcess }>({
        name: 'evict',
        contestants: ['ours'],
        rounds: effort.isQuick ? 1 : 3,
        isFresh: true,
        turns: [{ name: 'evict', metric: PER_OPERATION, goals, run: ({ server }) => measure(server, capacities) }],
        // A million streams need more than the heap's default.
        open: async (contestant) => ({
          server: await ServerProcess.start({ contestant, nodeOptions: ['--max-old-space-size=8192'] })
        }),
        close: ({ server }) => server.stop()
      })
    ]
  }
}

async function measure(server: ServerProcess, capacities: readonly number[]): Promise<Sample> {
  const costs: number[] = []
  for (const capacity of capacities) {
    // Every stream gives way once, so that the collections of a heap of that size are in it.
    const operations = Math.max(LEAST_OPERATIONS, capacity)
    costs.push(await server.ask<number>('registry', { capacity, operations }))
  }
  const smallest = costs[0] ?? Number.NaN
  const largest = costs.at(-1) ?? Number.NaN
  const named = capacities.map((capacity, index) => [`at ${capacity}`, costs[index] ?? Number.NaN] as const)
  return { smallest, growth: largest / smallest, ...Object.fromEntries(named) }
}
