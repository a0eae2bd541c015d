/**
 * latency: how long is an event under way, and what do the streams do to the other routes of the server?
 *
 * 1 000 clients of one stream, ten events a second, each for all clients at once. The clock is the machine's: the event
 * carries the time at which it was yielded. The other route is asked by a thread of its own.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ContestantName } from '../harness/contestant.ts'
import { Load } from '../harness/load.ts'
import { Pinger } from '../harness/pinger.ts'
import { ServerProcess } from '../harness/server-process.ts'
import type { Plan } from '../harness/source.ts'
import { closeStage, type Stage } from '../harness/stage.ts'
import { percentile } from '../harness/statistics.ts'
import { scene, type Effort, type Metric, type Sample, type Workload } from '../harness/workload.ts'

const CONTESTANTS: readonly ContestantName[] = ['res.write', '@fastify/sse', 'ours']
const CLIENTS = 1_000
const HISTORY = { events: 1_000, bytes: 120 }
const P50: Metric = { key: 'p50', unit: 'ms' }
const P99: Metric = { key: 'p99', unit: 'ms' }
const PING_MOVES: Metric = { key: 'p99Moves', unit: 'ms' }

interface LatencyStage extends Stage {
  readonly pinger: Pinger
}

export const latency: Workload = {
  name: 'latency',
  question: 'from yield to receive, and the other routes meanwhile',
  scenes: (effort) => [
    scene<LatencyStage>({
      name: 'latency',
      contestants: CONTESTANTS,
      turns: [
        {
          name: 'deliver',
          metric: P50,
          goals: [
            { against: 'res.write', atMost: 1 },
            { metric: P99, against: 'res.write', atMost: 1 }
          ],
          run: (stage) => measureDelivery(stage, planOf(effort))
        },
        {
          name: 'resume',
          metric: PING_MOVES,
          goals: [{ atMost: 20 }],
          run: (stage) => measureResume(stage, planOf(effort))
        }
      ],
      async open(contestant) {
        const server = await ServerProcess.start({ contestant, clients: CLIENTS, history: HISTORY })
        const load = await Load.open(server.port, CLIENTS)
        load.record()
        await load.request({ path: '/feed' })
        await server.waiting(1)
        return { server, load, pinger: new Pinger(server.port) }
      },
      async close(stage) {
        await stage.pinger.stop()
        await closeStage(stage)
      }
    })
  ]
}

function planOf(effort: Effort): Plan {
  return { bytes: 120, events: effort.isQuick ? 15 : 40, perTick: 1, intervalMs: 100, isStamped: true }
}

async function measureDelivery({ server, load, pinger }: LatencyStage, plan: Plan): Promise<Sample> {
  load.begin()
  const latencies: number[] = []
  load.latencies = latencies
  pinger.take()
  await server.run(plan)
  await load.received(plan.events)
  load.latencies = undefined
  load.check(plan.events)
  const milliseconds = latencies.map((micros) => micros / 1000)
  return {
    p50: percentile(milliseconds, 0.5),
    p99: percentile(milliseconds, 0.99),
    p999: percentile(milliseconds, 0.999),
    pingP99: percentile(pinger.take(), 0.99)
  }
}

/** The same feed twice, the second time while 1 000 others resume 1 000 events each. */
async function measureResume({ server, load, pinger }: LatencyStage, plan: Plan): Promise<Sample> {
  const others = await Load.open(server.port, CLIENTS)
  pinger.take()
  load.begin()
  await server.run(plan)
  await load.received(plan.events)
  load.check(plan.events)
  const before = pinger.take()
  load.begin()
  others.begin()
  await server.run(plan)
  await sleep(plan.intervalMs)
  await others.request({ path: '/history' }, false)
  await Promise.all([others.ended(CLIENTS), load.received(plan.events)])
  const during = pinger.take()
  load.check(plan.events)
  others.close()
  if (others.events !== CLIENTS * HISTORY.events) throw new Error(`${others.events} events resumed`)
  const p99Before = percentile(before, 0.99)
  const p99During = percentile(during, 0.99)
  return { p99Moves: p99During - p99Before, p99Before, p99During, worst: Math.max(...during), pings: during.length }
}
