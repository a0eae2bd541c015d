import { test, type Test } from 'tap'
import { placeOf } from '../../src/store/address.ts'
import type { AppendAnswer, StreamAddress, StreamStore } from '../../src/store/store.ts'
import { RedisCluster } from '../helpers/redis-cluster.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { clusterLibraries, frame, invalid, libraries, life, open, unavailable } from '../helpers/redis-store.ts'

// What several streams append in one tick is one command, and nobody can tell.

const hasServer = await new Promise<boolean>((resolve) => {
  void test('there is a server to test with', async (t) => resolve(hasRedis(t)))
})
const options = { skip: !hasServer }
const addresses: readonly StreamAddress[] = Array.from({ length: 10 }, (_, index) => ({
  streamId: `stream-${index}`,
  owner: undefined
}))
const [first] = addresses as [StreamAddress]

async function create(store: StreamStore): Promise<void> {
  for (const address of addresses) await store.create(address, life)
}

function append(store: StreamStore, sequence: number, bytes?: number): Promise<PromiseSettledResult<AppendAnswer>[]> {
  return Promise.allSettled(addresses.map((address) => store.append(address, frame(sequence, bytes))))
}

async function stored(store: StreamStore): Promise<(number | undefined)[]> {
  const pages = await Promise.all(addresses.map((address) => store.read(address, 0, 0)))
  return pages.map((page) => page?.stream.lastSequence)
}

async function countOf(server: RedisServer, section: string, name: string): Promise<number> {
  const info = await server.command('INFO', section)
  return Number(new RegExp(`${name}:(?:calls|count)=(\\d+)`).exec(info)?.[1] ?? 0)
}

function areStored(t: Test, answers: readonly PromiseSettledResult<AppendAnswer>[], sequence: number): void {
  const value = { kind: 'stored', lastSequence: sequence, isStopped: false, pacing: undefined }
  t.strictSame(
    answers,
    answers.map(() => ({ status: 'fulfilled', value }))
  )
}

for (const [library, client] of libraries) {
  test(`${library}: one command, up to a size`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store } = await open(t, client(server.port))
    await create(store)
    const appends = async (sequence: number, bytes?: number): Promise<number> => {
      const before = await countOf(server, 'commandstats', 'cmdstat_evalsha')
      areStored(t, await append(store, sequence, bytes), sequence)
      return (await countOf(server, 'commandstats', 'cmdstat_evalsha')) - before
    }
    t.ok((await appends(1)) <= 2, 'the first time its text is sent along')
    t.equal(await appends(2), 1)
    t.equal(await appends(3, 30_000), 5, 'two of them to 64 KiB')
    t.equal(await appends(4, 70_000), 10, 'what is larger goes alone')
  })

  test(`${library}: what is refused to one is not refused to the others`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store } = await open(t, client(server.port))
    await create(store)
    const [, , , mine] = addresses as [unknown, unknown, unknown, StreamAddress]
    await server.command('SET', placeOf('rsse', mine).record, 'mine')
    const answers = await append(store, 1)
    for (const [index, answer] of answers.entries()) {
      if (addresses[index] === mine) t.match(answer, { status: 'rejected', reason: invalid })
      else t.match(answer, { status: 'fulfilled', value: { lastSequence: 1 } })
    }
    await server.command('DEL', placeOf('rsse', mine).record)
    t.strictSame(
      await stored(store),
      addresses.map((address) => (address === mine ? undefined : 1))
    )
  })

  test(`${library}: a full server refuses all of it`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store } = await open(t, client(server.port))
    await create(store)
    await append(store, 1)
    await server.command('CONFIG', 'SET', 'maxmemory', '1')
    for (const answer of await append(store, 2)) t.match(answer, { status: 'rejected', reason: unavailable })
    t.strictSame(
      await stored(store),
      addresses.map(() => 1)
    )
    await server.command('CONFIG', 'SET', 'maxmemory', '0')
    areStored(t, await append(store, 2), 2)
  })

  test(`${library}: a server that says nothing is told to each`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store } = await open(t, client(server.port))
    await create(store)
    server.hang()
    for (const answer of await append(store, 1)) t.match(answer, { status: 'rejected', reason: unavailable })
    server.goOn()
  })
}

test('in a cluster each goes to its node, and a refusal is believed once', options, async (t) => {
  const cluster = await RedisCluster.start(t)
  for (const [library, createClient] of clusterLibraries) {
    const { store } = await open(t, createClient(cluster.ports), { prefix: library })
    await create(store)
    const refusals = async (): Promise<number> => {
      const counts = cluster.masters.map((node) => countOf(node, 'errorstats', 'errorstat_CROSSSLOT'))
      return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0)
    }
    const before = await refusals()
    for (const sequence of [1, 2, 3]) areStored(t, await append(store, sequence), sequence)
    t.equal((await refusals()) - before, 1, library)
    t.match(await store.read(first, 0, 1_000), { batches: [{ firstSequence: 1 }, { firstSequence: 2 }, {}] })
  }
})
