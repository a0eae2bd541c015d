/**
 * streams: what does one token cost when every client has a stream of its own?
 *
 * Paced is a chat server; flat out a proxy or an export; short the whole life of a small answer, measured in a closed
 * loop: request, start, 20 events, end, the next request on the same connection.
 */
import type { ContestantName } from '../harness/contestant.ts'
import { Load } from '../harness/load.ts'
import { ServerProcess } from '../harness/server-process.ts'
import type { Plan } from '../harness/source.ts'
import { closeStage, measureAnswers, type Stage } from '../harness/stage.ts'
import {
  CPU_PER_EVENT,
  scene,
  type Effort,
  type Sample,
  type Scene,
  type Turn,
  type Workload
} from '../harness/workload.ts'

const CONTESTANTS: readonly ContestantName[] = [
  'socket',
  'res.write',
  '@fastify/sse',
  'better-sse',
  'fastify-sse-v2',
  'ours'
]
const REQUEST = { path: '/tokens' }
const TOKEN_BYTES = 60
const SHORT_EVENTS = 20
const SHORT_CLIENTS = 50

export const streams: Workload = {
  name: 'streams',
  question: 'a stream of its own for every client',
  scenes: (effort) => [
    ...(effort.isQuick ? [500] : [500, 2_000]).map((clients) => longScene(clients, effort)),
    shortScene(effort)
  ]
}

function longScene(clients: number, effort: Effort): Scene<never> {
  const share = (effort.isQuick ? 0.3 : 1) * (500 / clients)
  const paced: Plan = { bytes: TOKEN_BYTES, events: Math.ceil(60 * share), perTick: 1, intervalMs: clients / 10 }
  const flat: Plan = { bytes: TOKEN_BYTES, events: Math.ceil(600 * share), perTick: Infinity, intervalMs: 1 }
  return scene<Stage>({
    name: `${clients} streams`,
    contestants: CONTESTANTS,
    turns: [longTurn(`paced-${clients}`, paced, 1), longTurn(`flat-${clients}`, flat, 0.5)],
    open: (contestant) => openStage(contestant, clients),
    close: closeStage
  })
}

function longTurn(name: string, plan: Plan, atMost: number): Turn<Stage> {
  return {
    name,
    metric: CPU_PER_EVENT,
    goals: [{ against: 'res.write', atMost }],
    run: (stage) => measureAnswers(stage, REQUEST, plan)
  }
}

function shortScene(effort: Effort): Scene<never> {
  const answers = effort.isQuick ? 1_500 : 5_000
  return scene<Stage>({
    name: 'short',
    contestants: CONTESTANTS,
    turns: [
      {
        name: 'short',
        metric: CPU_PER_EVENT,
        goals: [{ against: 'res.write', atMost: 1.3 }],
        run: (stage) => measureShort(stage, answers)
      }
    ],
    open: (contestant) => openStage(contestant, SHORT_CLIENTS),
    close: closeStage
  })
}

async function openStage(contestant: ContestantName, clients: number): Promise<Stage> {
  const server = await ServerProcess.start({ contestant, clients })
  const load = await Load.open(server.port, clients)
  load.record()
  return { server, load }
}

async function measureShort({ server, load }: Stage, answers: number): Promise<Sample> {
  await server.ask('stand', {
    bytes: TOKEN_BYTES,
    events: SHORT_EVENTS,
    perTick: Infinity,
    intervalMs: 1
  } satisfies Plan)
  load.begin()
  let asked = 0
  load.onEnd = (client) => {
    if (asked++ < answers) load.ask(client, REQUEST)
  }
  await server.begin()
  for (let client = 0; client < load.clients; client++, asked++) {
    await load.ensure(client)
    load.ask(client, REQUEST)
  }
  await load.ended(answers)
  load.onEnd = undefined
  const { cpu, wallMs, rssBytes, delayP99Ms } = await server.end()
  if (load.events !== answers * SHORT_EVENTS) throw new Error(`${load.events} of ${answers * SHORT_EVENTS} events`)
  return {
    cpu: cpu / load.events,
    cpuPerAnswer: cpu / answers,
    eventsPerSecond: (1000 * load.events) / wallMs,
    readsPerEvent: load.reads / load.events,
    bytesPerEvent: load.bytes / load.events,
    rssMiB: rssBytes / 2 ** 20,
    delayP99Ms
  }
}
