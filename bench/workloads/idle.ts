/**
 * idle: what does a connection cost on which nothing happens?
 *
 * Memory after garbage collection, the difference between no client and all; CPU per keep-alive comment. Every sample
 * has a fresh server process.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ContestantName } from '../harness/contestant.ts'
import { Load } from '../harness/load.ts'
import { ServerProcess } from '../harness/server-process.ts'
import { scene, type Effort, type Metric, type Sample, type Scene, type Workload } from '../harness/workload.ts'

const CONTESTANTS: readonly ContestantName[] = [
  'socket',
  'res.write',
  '@fastify/sse',
  'better-sse',
  'fastify-sse-v2',
  'ours'
]
const HEAP: Metric = { key: 'heapKB', unit: 'KB/connection' }
const CPU_PER_BEAT: Metric = { key: 'cpu', unit: 'µs/heartbeat' }
const SETTLE_MS = 300
const HEARTBEAT_MS = 1_000
const HEARTBEAT_ROUNDS = 4

export const idle: Workload = {
  name: 'idle',
  question: 'connections on which nothing happens',
  scenes: (effort) => [
    memoryScene('one-stream', '/feed', 6.6, effort),
    memoryScene('own-streams', '/tokens', 11, effort),
    beatScene(effort)
  ]
}

function memoryScene(name: string, path: string, atMost: number, effort: Effort): Scene<never> {
  const clients = effort.isQuick ? 2_000 : 10_000
  return scene<IdleStage>({
    name,
    contestants: CONTESTANTS,
    rounds: 1,
    isFresh: true,
    turns: [{ name, metric: HEAP, goals: [{ atMost }], run: (stage) => measureMemory(stage, path) }],
    open: (contestant) => openStage(contestant, clients, undefined),
    close: ({ server }) => server.stop()
  })
}

function beatScene(effort: Effort): Scene<never> {
  const clients = effort.isQuick ? 2_000 : 10_000
  return scene<IdleStage>({
    name: 'heartbeat',
    contestants: CONTESTANTS,
    rounds: effort.isQuick ? 1 : 5,
    isFresh: true,
    turns: [
      {
        name: 'heartbeat',
        metric: CPU_PER_BEAT,
        goals: [{ against: 'res.write', atMost: 0.8 }],
        run: measureBeats
      }
    ],
    open: (contestant) => openStage(contestant, clients, HEARTBEAT_MS),
    close: ({ server }) => server.stop()
  })
}

interface IdleStage {
  readonly server: ServerProcess
  readonly clients: number
}

/** One client comes and goes before anything is measured: what is loaded lazily is nobody's connection. */
async function openStage(
  contestant: ContestantName,
  clients: number,
  heartbeatMs: number | undefined
): Promise<IdleStage> {
  const server = await ServerProcess.start({ contestant, clients: clients + 1, heartbeatMs })
  const first = await Load.open(server.port, 1)
  await first.request({ path: '/feed' })
  first.close()
  return { server, clients }
}

async function measureMemory({ server, clients }: IdleStage, path: string): Promise<Sample> {
  const empty = await server.held()
  const load = await Load.open(server.port, clients)
  // Connected, not yet asked: the connection itself is what nobody can avoid.
  const connected = await server.held()
  await load.request({ path }, path === '/feed')
  if (path === '/tokens') await server.waiting(clients)
  await sleep(SETTLE_MS)
  const after = await server.held()
  load.close()
  const per = (bytes: number): number => bytes / 1000 / clients
  return {
    heapKB: per(after.heapBytes - empty.heapBytes),
    requestKB: per(after.heapBytes - connected.heapBytes),
    externalKB: per(after.externalBytes - empty.externalBytes),
    rssKB: per(after.rssBytes - empty.rssBytes)
  }
}

async function measureBeats({ server, clients }: IdleStage): Promise<Sample> {
  const load = await Load.open(server.port, clients)
  await load.request({ path: '/feed' })
  await sleep(2 * HEARTBEAT_MS)
  load.begin()
  await server.begin()
  await sleep(HEARTBEAT_ROUNDS * HEARTBEAT_MS)
  const { cpu, delayP99Ms, rssBytes } = await server.end()
  load.close()
  return { cpu: cpu / load.reads, beatsPerClient: load.reads / load.clients, delayP99Ms, rssMiB: rssBytes / 2 ** 20 }
}
