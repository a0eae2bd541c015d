import { setTimeout as sleep } from 'node:timers/promises'
import type { ContestantName, StoreSetting } from './contestant.ts'
import { Load } from './load.ts'
import { ServerProcess } from './server-process.ts'
import { StoreServer } from './store-server.ts'
import type { Stage } from './stage.ts'
import type { Sample } from './workload.ts'

const FEED = { path: '/feed' }
/** As long as a store takes at least to come to rest. */
const QUIET_MS = 100

/** Instances that share a store, or one that has none. */
export interface SharedStage extends Stage {
  /** Where the streams are produced; `server` is the one that is measured, with its clients. */
  readonly home: ServerProcess
  readonly store: StoreServer | undefined
  /** The client that started the stream, where the home has one of its own. */
  readonly starter: Load | undefined
}

export interface StageSetting extends Omit<StoreSetting, 'port'> {
  readonly clients: number
  /** Whether the clients are those of another instance than the home. */
  readonly isReplicated: boolean
  readonly hasStore: boolean
}

/** Instances, connected clients, and nothing asked for. */
export async function openInstances(contestant: ContestantName, setting: StageSetting): Promise<SharedStage> {
  const { clients, isReplicated, hasStore, ...times } = setting
  const store = hasStore ? await StoreServer.start() : undefined
  const instance = { contestant, clients, store: store && { port: store.port, ...times } }
  const home = await ServerProcess.start(instance)
  const server = isReplicated ? await ServerProcess.start(instance) : home
  const starter = isReplicated ? await Load.open(home.port, 1) : undefined
  const load = await Load.open(server.port, clients)
  load.record()
  return { home, server, store, starter, load }
}

/** One feed that runs at the home, and every client attached to it. */
export async function openFeed(contestant: ContestantName, setting: StageSetting): Promise<SharedStage> {
  const stage = await openInstances(contestant, setting)
  await startFeed(stage)
  await stage.load.request(FEED)
  await stage.home.waiting(1)
  return stage
}

/** A first client starts the run: at the home, where that is another instance. */
export async function startFeed({ starter, home }: SharedStage): Promise<void> {
  if (starter === undefined) return
  await starter.request(FEED)
  await home.waiting(1)
}

export async function closeShared({ load, starter, server, home, store }: SharedStage): Promise<void> {
  load.close()
  starter?.close()
  await Promise.all([server.stop(), home === server ? undefined : home.stop()])
  await store?.stop()
}

/**
 * Measures what the instances and the store spend until every client has everything and the store is at rest. `cpu` is
 * that of the instance with the clients, `bothCpu` that of all instances.
 */
export async function measureShared(stage: SharedStage, deliver: () => Promise<void>): Promise<Sample> {
  const { load, starter, server, home, store } = stage
  for (const clients of [load, starter]) clients?.begin()
  const before = await store?.reading()
  const servers = server === home ? [server] : [server, home]
  await Promise.all(servers.map((it) => it.begin()))
  const startedAt = performance.now()
  await deliver()
  const wallMs = performance.now() - startedAt
  await (store === undefined ? sleep(QUIET_MS) : store.settled())
  const readings = await Promise.all(servers.map((it) => it.end()))
  const after = await store?.reading()
  const events = load.events + (starter?.events ?? 0)
  const cpus = readings.map(({ cpu }) => cpu)
  return {
    cpu: (cpus[0] ?? Number.NaN) / load.events,
    ...(cpus.length > 1 ? { bothCpu: cpus.reduce((sum, cpu) => sum + cpu, 0) / events } : {}),
    ...(before && after
      ? {
          storeCpu: (after.cpu - before.cpu) / events,
          commandsPerEvent: (after.commands - before.commands) / events,
          eventsPerCommand: events / (after.commands - before.commands),
          storeBytes: (after.bytes - before.bytes) / events
        }
      : {}),
    eventsPerSecond: (1000 * events) / wallMs
  }
}
