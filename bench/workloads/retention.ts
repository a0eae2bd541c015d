/** retention: how many bytes does the process hold for each byte that it could send again? */
import { ServerProcess } from '../harness/server-process.ts'
import { scene, type Goal, type Metric, type Sample, type Scene, type Workload } from '../harness/workload.ts'

const PER_WIRE_BYTE: Metric = { key: 'perWireByte', unit: 'bytes/wire byte' }
const PER_STREAM: Metric = { key: 'perStream', unit: 'bytes/stream' }

interface Kept {
  readonly streams: number
  readonly events: number
  readonly bytes: number
}

export const retention: Workload = {
  name: 'retention',
  question: 'memory of finished streams',
  scenes: (effort) => [
    sceneOf('1000x100', { streams: 1_000, events: 100, bytes: 200 }, PER_WIRE_BYTE, { atMost: 1.15 }),
    sceneOf('long', { streams: 1, events: effort.isQuick ? 100_000 : 1_000_000, bytes: 200 }, PER_WIRE_BYTE, {
      atMost: 1.05
    }),
    sceneOf('3-events', { streams: 1_000, events: 3, bytes: 60 }, PER_STREAM, { atMost: 2_048 })
  ]
}

function sceneOf(name: string, kept: Kept, metric: Metric, goal: Goal): Scene<never> {
  return scene<{ server: ServerProcess }>({
    name,
    contestants: ['ours'],
    rounds: 1,
    isFresh: true,
    turns: [{ name, metric, goals: [goal], run: ({ server }) => server.ask<Sample>('retention', kept) }],
    open: async (contestant) => ({ server: await ServerProcess.start({ contestant }) }),
    close: ({ server }) => server.stop()
  })
}
