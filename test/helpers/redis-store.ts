import { Cluster as IoredisCluster, Redis } from 'ioredis'
import { Cluster as IovalkeyCluster, Redis as Valkey } from 'iovalkey'
import { createClient, createCluster } from 'redis'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { redisStore, type RedisClient, type RedisStoreOptions } from '../../src/store/redis.ts'
import type { Append, NewLife, Sign, StoreHost, StreamAddress, StreamStore } from '../../src/store/store.ts'
import { createRecordingLog, type LogLine } from './recording-log.ts'

/** Of the stores of these tests: a command may take a third of it. */
export const LEASE_MS = 2_000
const POLL_MS = 100

export interface Access {
  readonly username?: string
  readonly password?: string
}

const clients: Record<string, (port: number, access?: Access) => RedisClient> = {
  ioredis: (port, access) => new Redis({ port, lazyConnect: true, ...access }),
  iovalkey: (port, access) => new Valkey({ port, lazyConnect: true, ...access }),
  'node-redis': (port, access) => createClient({ ...access, socket: { host: '127.0.0.1', port } })
}

/** Every client library, and how a user makes a client with it. */
export const libraries: readonly [string, (port: number, access?: Access) => RedisClient][] = Object.entries(clients)

const clusterClients: Record<string, (ports: readonly number[]) => RedisClient> = {
  ioredis: (ports) => new IoredisCluster(ports.map(nodeAt), { lazyConnect: true }),
  iovalkey: (ports) => new IovalkeyCluster(ports.map(nodeAt), { lazyConnect: true }),
  'node-redis': (ports) => createCluster({ rootNodes: ports.map((port) => ({ socket: nodeAt(port) })) })
}

/** The same for a cluster. */
export const clusterLibraries: readonly [string, (ports: readonly number[]) => RedisClient][] =
  Object.entries(clusterClients)

function nodeAt(port: number): { host: string; port: number } {
  return { host: '127.0.0.1', port }
}

export const address: StreamAddress = { streamId: 'stream', owner: undefined }
export const life: NewLife = { epoch: 'life-1', route: undefined, ttlMs: 60_000, startedAt: 0, pace: undefined }

/** Of clients that are about to attach. */
export const sign: Sign = { epoch: undefined, position: 0 }

export function frame(sequence: number, bytes = 1): Append {
  const batch = { firstSequence: sequence, frames: Buffer.alloc(bytes, 'x'), lengths: [bytes] }
  return { epoch: 'life-1', ttlMs: 60_000, batch, lastSequence: sequence, keep: 1, finish: undefined }
}

export function beat(lastSequence: number): Append {
  return { epoch: 'life-1', ttlMs: 60_000, batch: undefined, lastSequence, keep: 1, finish: undefined }
}

/** A store, and what its host is told. */
export interface Fixture {
  readonly store: StreamStore
  readonly host: StoreHost
  readonly lines: LogLine[]
  readonly calls: string[]
}

/** Makes a store that is not opened yet; it is closed at the end of the test. */
export function make(t: Test, client: RedisClient, options: RedisStoreOptions = {}): Fixture {
  const store = redisStore(client, { lease: LEASE_MS, pollInterval: POLL_MS, ...options })
  t.teardown(() => store.close(0))
  const { log, lines } = createRecordingLog()
  const calls: string[] = []
  const host = { log, onStop: () => calls.push('stop'), onReturn: () => calls.push('return') }
  return { store, host, lines, calls }
}

export async function open(t: Test, client: RedisClient, options?: RedisStoreOptions): Promise<Fixture> {
  const fixture = make(t, client, options)
  await fixture.store.open(fixture.host)
  return fixture
}

/** Opens stores and closes them a little later each, somewhere in the middle of their opening. */
export async function openAndClose(t: Test, createClient: () => RedisClient): Promise<void> {
  const openFor = async (ms: number): Promise<void> => {
    const { store, host } = make(t, createClient())
    const opened = store.open(host)
    await delay(ms)
    await store.close(0)
    await opened
  }
  await Promise.all(Array.from({ length: 20 }, (_, ms) => openFor(ms)))
}

/** What errors look like. */
export const unavailable: { code: string; statusCode: number } = {
  code: 'FST_ERR_RSSE_STORE_UNAVAILABLE',
  statusCode: 503
}
export const invalid: { code: string; statusCode: number } = { code: 'FST_ERR_RSSE_STORE_INVALID', statusCode: 500 }
