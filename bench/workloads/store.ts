/**
 * store: what does it cost to share streams with other instances, and how late do they have them?
 *
 * Every stage has a `redis-server` of its own, on this machine. What the store spends is that server's count; reading it
 * is part of no command or byte that is shown. A round is over when the store is at rest: clients of the home have an
 * event before it is stored, and what is still to be stored is work that the round made.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ContestantName } from '../harness/contestant.ts'
import type { Plan } from '../harness/source.ts'
import {
  closeShared,
  measureShared,
  openFeed,
  openInstances,
  startFeed,
  type SharedStage
} from '../harness/shared-stage.ts'
import { percentile } from '../harness/statistics.ts'
import { missingStore } from '../harness/store-server.ts'
import {
  CPU_PER_EVENT,
  scene,
  type Effort,
  type Goal,
  type Metric,
  type Sample,
  type Scene,
  type Turn,
  type Workload
} from '../harness/workload.ts'

const HOME = 'ours at home'
const REPLICA = 'ours elsewhere'
const PEER = 'resumable-stream'

const COMMANDS_PER_EVENT: Metric = { key: 'commandsPerEvent', unit: 'commands/event' }
const EVENTS_PER_COMMAND: Metric = { key: 'eventsPerCommand', unit: 'events/command' }
const BOTH_CPU: Metric = { key: 'bothCpu', unit: 'µs/event' }
const STORE_BYTES: Metric = { key: 'storeBytes', unit: 'B/event' }
const P50: Metric = { key: 'p50', unit: 'ms' }
const P99: Metric = { key: 'p99', unit: 'ms' }
const KEPT: Metric = { key: 'kept', unit: 'of the events' }
const READS: Metric = { key: 'reads', unit: 'store reads' }
const CONNECTIONS: Metric = { key: 'connectionsPerInstance', unit: 'connections' }

/** Twenty events a second: what a model yields. */
const TOKEN_MS = 50
const TOKEN_BYTES = 60
const EVENT_BYTES = 120
const POLL_MS = 500
/** Whoever has nothing to give would be waited for for ever. */
const AT_MOST_MS = 3_000

export const shared: Workload = {
  name: 'store',
  question: 'streams that several instances share',
  missing: missingStore,
  scenes: (effort) => [
    ...(effort.isQuick ? [500] : [500, 2_000]).map((streams) => tokensScene(streams, effort)),
    flatScene(),
    fanoutScene(effort.isQuick ? 500 : 1_000, effort),
    latencyScene(effort),
    attachScene(effort),
    ...[1, 100].map((readers) => peerScene(readers, effort)),
    deathScene(effort)
  ]
}

// ── the home ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function openHome(contestant: ContestantName, clients: number): Promise<SharedStage> {
  return openInstances(contestant, { clients, isReplicated: false, hasStore: contestant === HOME })
}

function tokensScene(streams: number, effort: Effort): Scene<never> {
  const share = (effort.isQuick ? 0.4 : 1) * (500 / streams)
  const paced = { bytes: TOKEN_BYTES, events: Math.ceil(60 * share), perTick: 1, intervalMs: TOKEN_MS }
  const flat = { bytes: TOKEN_BYTES, events: Math.ceil(600 * share), perTick: Infinity, intervalMs: 1 }
  return scene<SharedStage>({
    name: `${streams} streams`,
    contestants: ['ours', HOME],
    turns: [
      answersTurn(`tokens-${streams}`, paced, [
        { of: HOME, against: 'ours', atMost: 2 },
        { of: HOME, metric: COMMANDS_PER_EVENT, atMost: 1 }
      ]),
      answersTurn(`flat-${streams}`, flat, FLAT_GOALS)
    ],
    open: (contestant) => openHome(contestant, streams),
    close: closeShared
  })
}

const FLAT_GOALS: readonly Goal[] = [
  { of: HOME, against: 'ours', atMost: 1.3 },
  { of: HOME, metric: EVENTS_PER_COMMAND, atLeast: 20 }
]

function answersTurn(name: string, plan: Plan, goals: readonly Goal[]): Turn<SharedStage> {
  return {
    name,
    metric: CPU_PER_EVENT,
    base: 'ours',
    goals,
    async run(stage) {
      const { load, home } = stage
      await stage.store?.forgetStreams()
      await load.request({ path: '/tokens' }, false)
      await home.waiting(load.clients)
      const sample = await measureShared(stage, async () => {
        await home.run(plan)
        await load.ended(load.clients)
      })
      load.check(plan.events)
      return sample
    }
  }
}

function flatScene(): Scene<never> {
  // A tenth of it is over before the code is warm, and shows nothing else.
  const plan = planOf(1_000_000, Infinity)
  return scene<SharedStage>({
    name: 'one stream',
    contestants: ['ours', HOME],
    turns: [{ name: 'flat-1', metric: CPU_PER_EVENT, base: 'ours', goals: FLAT_GOALS, run: feedRun(plan) }],
    async open(contestant) {
      return openFeed(contestant, { clients: 1, isReplicated: false, hasStore: contestant === HOME })
    },
    close: closeShared
  })
}

// ── another instance ─────────────────────────────────────────────────────────────────────────────────────────────────

function fanoutScene(clients: number, effort: Effort): Scene<never> {
  const share = (effort.isQuick ? 500 : 1_000) / clients
  const paces = [
    ['paced', planOf(60 * share, 1, clients / 100)],
    ['flat', planOf(2_000 * share, Infinity)]
  ] as const
  return scene<SharedStage>({
    name: `${clients} clients`,
    contestants: ['ours', HOME, REPLICA],
    turns: paces.map(([pace, plan]) => ({
      name: `fanout-${pace}-${clients}`,
      metric: CPU_PER_EVENT,
      base: 'ours',
      goals: [{ of: REPLICA, against: 'ours', atMost: 1.1 }],
      run: feedRun(plan)
    })),
    open: (contestant) =>
      openFeed(contestant, { clients, isReplicated: contestant === REPLICA, hasStore: contestant !== 'ours' }),
    close: closeShared
  })
}

function planOf(events: number, perTick: number, intervalMs = 1): Plan {
  return { bytes: EVENT_BYTES, events: Math.ceil(events), perTick, intervalMs: Math.ceil(intervalMs) }
}

function feedRun(plan: Plan): (stage: SharedStage) => Promise<Sample> {
  return async (stage) => {
    const sample = await measureShared(stage, () => deliver(stage, plan))
    stage.load.check(plan.events)
    return sample
  }
}

/** One plan of the feed, to every client. */
async function deliver({ home, load, starter }: SharedStage, plan: Plan): Promise<void> {
  await home.run(plan)
  await load.received(plan.events)
  await starter?.received(plan.events)
}

function latencyScene(effort: Effort): Scene<never> {
  const notified = { ...planOf(effort.isQuick ? 200 : 400, 1, 10), isStamped: true }
  const polled = { ...planOf(effort.isQuick ? 30 : 50, 1, 100), isStamped: true }
  return scene<SharedStage>({
    name: 'latency',
    contestants: ['ours', REPLICA],
    turns: [
      {
        name: 'latency',
        metric: P50,
        base: 'ours',
        goals: [
          { of: REPLICA, atMost: 2 },
          { of: REPLICA, metric: P99, atMost: 10, isBestRound: true }
        ],
        run: (stage) => measureLatency(stage, notified)
      },
      {
        name: 'latency-without-pubsub',
        metric: P50,
        base: 'ours',
        goals: [{ of: REPLICA, metric: P99, atMost: 1.5 * POLL_MS }],
        async run(stage) {
          await stage.store?.turnPubSubOff()
          return measureLatency(stage, polled)
        }
      }
    ],
    open: (contestant) => {
      const isShared = contestant !== 'ours'
      return openFeed(contestant, { clients: 1, isReplicated: isShared, hasStore: isShared, pollMs: POLL_MS })
    },
    close: closeShared
  })
}

async function measureLatency(stage: SharedStage, plan: Plan): Promise<Sample> {
  const latencies: number[] = []
  stage.load.begin()
  stage.starter?.begin()
  stage.load.latencies = latencies
  await deliver(stage, plan)
  stage.load.latencies = undefined
  await stage.store?.settled()
  stage.load.check(plan.events)
  const milliseconds = latencies.map((micros) => micros / 1000)
  return {
    p50: percentile(milliseconds, 0.5),
    p99: percentile(milliseconds, 0.99),
    worst: Math.max(...milliseconds)
  }
}

function attachScene(effort: Effort): Scene<never> {
  const clients = effort.isQuick ? 300 : 1_000
  const history = planOf(1_000, Infinity)
  return scene<SharedStage>({
    name: 'attach',
    contestants: [REPLICA],
    isFresh: true,
    turns: [
      {
        name: `attach-${clients}`,
        metric: READS,
        goals: [
          { of: REPLICA, atMost: 3 },
          { of: REPLICA, metric: CONNECTIONS, atMost: 2 }
        ],
        run: (stage) => measureAttach(stage, history)
      }
    ],
    // No round of polls or beats comes in between.
    open: (contestant) =>
      openInstances(contestant, { clients, isReplicated: true, hasStore: true, pollMs: 60_000, leaseMs: 300_000 }),
    close: closeShared
  })
}

/** The stream has run for a while when everybody comes at once. */
async function measureAttach(stage: SharedStage, history: Plan): Promise<Sample> {
  const { store, home, server, starter, load } = stage
  if (store === undefined || starter === undefined) throw new Error('no store')
  await startFeed(stage)
  await home.run(history)
  await starter.received(history.events)
  await store.settled()
  const before = await store.reading()
  load.begin()
  await server.begin()
  const startedAt = performance.now()
  await load.request({ path: '/feed' }, false)
  await load.received(history.events)
  const allMs = performance.now() - startedAt
  await store.settled()
  const { cpu } = await server.end()
  const after = await store.reading()
  load.check(history.events)
  return {
    reads: after.scripts - before.scripts,
    commands: after.commands - before.commands,
    storeBytes: after.bytes - before.bytes,
    cpuPerClient: cpu / load.clients,
    allMs,
    connectionsPerInstance: (await store.connections()) / 2
  }
}

// ── the peer ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function peerScene(readers: number, effort: Effort): Scene<never> {
  const share = effort.isQuick ? 0.2 : 1
  const paces = [
    ['paced', planOf(1_000 * share, 1, 5)],
    ['flat', planOf((share * 200_000) / (readers + 9), Infinity)]
  ] as const
  return scene<SharedStage>({
    name: `${readers} readers`,
    contestants: [REPLICA, PEER],
    turns: paces.map(([pace, plan]) => ({
      name: `peer-${pace}-${readers}`,
      metric: BOTH_CPU,
      base: PEER,
      goals: [
        { of: REPLICA, against: PEER, atMost: 1 },
        { of: REPLICA, metric: STORE_BYTES, against: PEER, atMost: 1 }
      ],
      run: feedRun(plan)
    })),
    open: (contestant) => openFeed(contestant, { clients: readers, isReplicated: true, hasStore: true }),
    close: closeShared
  })
}

function deathScene(effort: Effort): Scene<never> {
  const history = planOf(effort.isQuick ? 200 : 1_000, 1, 1)
  return scene<SharedStage>({
    name: 'death',
    contestants: [REPLICA, PEER],
    rounds: effort.isQuick ? 1 : 3,
    isFresh: true,
    turns: [
      {
        name: 'producer-killed',
        metric: KEPT,
        goals: [{ of: REPLICA, atLeast: 1 }],
        run: (stage) => measureDeath(stage, history)
      }
    ],
    open: (contestant) => openInstances(contestant, { clients: 1, isReplicated: true, hasStore: true }),
    close: closeShared
  })
}

/** The producer's process is killed, and a client comes back to another instance for all that there was. */
async function measureDeath(stage: SharedStage, history: Plan): Promise<Sample> {
  const { store, home, starter, load } = stage
  if (store === undefined || starter === undefined) throw new Error('no store')
  await startFeed(stage)
  starter.begin()
  await home.run(history)
  await starter.received(history.events)
  await store.settled()
  starter.close()
  await home.stop()
  load.begin()
  await load.request({ path: '/feed' }, false)
  await Promise.race([load.received(history.events), sleep(AT_MOST_MS)])
  return { kept: load.events / history.events }
}
