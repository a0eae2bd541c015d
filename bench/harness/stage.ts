import type { Load, Request } from './load.ts'
import type { ServerProcess } from './server-process.ts'
import type { Plan } from './source.ts'
import type { Sample } from './workload.ts'

/** A server process and the clients connected to it. */
export interface Stage {
  readonly server: ServerProcess
  readonly load: Load
}

export async function closeStage({ server, load }: Stage): Promise<void> {
  load.close()
  await server.stop()
}

/** Runs the plan in every waiting generator and measures until every client has every event. */
export async function measurePlan({ server, load }: Stage, plan: Plan): Promise<Sample> {
  load.begin()
  await server.begin()
  await server.run(plan)
  await load.received(plan.events)
  return finishMeasure({ server, load }, plan.events)
}

/** One generator per client: asks, waits until all wait for the plan, measures, and lets every answer end. */
export async function measureAnswers(stage: Stage, request: Request, plan: Plan): Promise<Sample> {
  const { server, load } = stage
  load.begin()
  await load.request(request, false)
  await server.waiting(load.clients)
  load.begin()
  await server.begin()
  await server.run(plan)
  await load.ended(load.clients)
  await load.received(plan.events)
  return finishMeasure(stage, plan.events)
}

async function finishMeasure({ server, load }: Stage, eventsPerClient: number): Promise<Sample> {
  const { cpu, wallMs, rssBytes, delayP99Ms } = await server.end()
  load.check(eventsPerClient)
  return {
    cpu: cpu / load.events,
    eventsPerSecond: (1000 * load.events) / wallMs,
    readsPerEvent: load.reads / load.events,
    bytesPerEvent: load.bytes / load.events,
    rssMiB: rssBytes / 2 ** 20,
    delayP99Ms
  }
}
