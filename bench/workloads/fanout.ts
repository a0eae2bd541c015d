/**
 * fanout: what does one event of one stream cost per client that gets it?
 *
 * Paced: one event per tick, the live feed. Burst: eight per tick, what a database notification or a model's batch
 * looks like. Flat out: as fast as the consumer pulls. Sockets stay connected for all turns of a scene.
 */
import type { ContestantName } from '../harness/contestant.ts'
import { Load } from '../harness/load.ts'
import { ServerProcess } from '../harness/server-process.ts'
import type { Plan } from '../harness/source.ts'
import { closeStage, measurePlan, type Stage } from '../harness/stage.ts'
import {
  CPU_PER_EVENT,
  scene,
  type Effort,
  type Goal,
  type Scene,
  type Turn,
  type Workload
} from '../harness/workload.ts'

const CONTESTANTS: readonly ContestantName[] = [
  'socket',
  'socket-batch',
  'res.write',
  'res.write per client',
  '@fastify/sse',
  'better-sse',
  'fastify-sse-v2',
  'ours'
]

/** All connections are the runner's, and a process may have some 20 000 files open. */
const FEW: readonly ContestantName[] = ['res.write', '@fastify/sse', 'ours']
const MANY_CLIENTS = 5_000

const PACES = ['paced', 'burst', 'flat'] as const
type Pace = (typeof PACES)[number]
const SIZES = [120, 4_096]

/** Of the CPU time of `res.write`. */
const GOALS: Readonly<Record<string, number>> = {
  'paced-1000x120': 0.8,
  'paced-1000x4096': 0.78,
  'burst-1000x120': 0.55,
  'burst-1000x4096': 0.45,
  'flat-1000x120': 0.1,
  'flat-1000x4096': 0.4,
  'flat-1x120': 0.75
}

export const fanout: Workload = {
  name: 'fanout',
  question: 'one stream, many clients',
  scenes: (effort) =>
    (effort.isQuick ? [1, 1_000] : [1, 100, 1_000, MANY_CLIENTS]).map((clients) => sceneOf(clients, effort))
}

function sceneOf(clients: number, effort: Effort): Scene<never> {
  return scene<Stage>({
    name: `${clients} clients`,
    contestants: clients < MANY_CLIENTS ? CONTESTANTS : FEW,
    turns: PACES.filter((pace) => !effort.isQuick || !isNoise(pace, clients)).flatMap((pace) =>
      SIZES.map((bytes) => turnOf(pace, clients, bytes, effort))
    ),
    async open(contestant) {
      const server = await ServerProcess.start({ contestant, clients })
      const load = await Load.open(server.port, clients)
      load.record()
      await load.request({ path: '/feed' })
      // Ours waits with its generator for the first client, the others have it from the beginning.
      await server.waiting(1)
      return { server, load }
    },
    close: closeStage
  })
}

function turnOf(pace: Pace, clients: number, bytes: number, effort: Effort): Turn<Stage> {
  const plan = planOf(pace, clients, bytes, effort.isQuick ? 0.1 : 1)
  const name = `${pace}-${clients}x${bytes}`
  return {
    name,
    metric: CPU_PER_EVENT,
    goals: goalsOf(name, clients, bytes),
    ...(isNoise(pace, clients) ? { caveat: 'one client: mostly timers and wake-ups, ± 30 %; no claim' } : {}),
    run: (stage) => measurePlan(stage, plan)
  }
}

/** One client and a timer: what is measured is mostly how the process wakes up. */
function isNoise(pace: Pace, clients: number): boolean {
  return clients === 1 && pace !== 'flat'
}

/** About half a second of work for `res.write`, a tenth of it where it has to be quick. */
function planOf(pace: Pace, clients: number, bytes: number, share: number): Plan {
  const intervalMs = Math.max(5, Math.ceil(clients / 100))
  if (pace === 'flat') {
    const deliveries = bytes > 1_000 ? 120_000 : 1_000_000
    const atMost = bytes > 1_000 ? 20_000 : 200_000
    return { bytes, events: count((share * deliveries) / clients, atMost * share), perTick: Infinity, intervalMs: 1 }
  }
  const deliveries = pace === 'paced' ? 60_000 : 120_000
  const atMost = pace === 'paced' ? 200 : 1_600
  const perTick = pace === 'paced' ? 1 : 8
  return { bytes, events: count((share * deliveries) / clients, atMost * share, perTick), perTick, intervalMs }
}

/** A whole number of ticks. */
function count(events: number, atMost: number, perTick = 1): number {
  return Math.max(1, Math.round(Math.min(events, atMost) / perTick)) * perTick
}

function goalsOf(name: string, clients: number, bytes: number): Goal[] {
  const limit = GOALS[name]
  const peers = clients < 100 ? undefined : bytes > 1_000 ? 0.5 : 0.75
  return [
    ...(limit === undefined ? [] : [{ against: 'res.write', atMost: limit } as const]),
    ...(peers === undefined ? [] : [{ against: 'best peer', atMost: peers } as const])
  ]
}
