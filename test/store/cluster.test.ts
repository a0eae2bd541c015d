import { test } from 'tap'
import { redisStore } from '../../src/store/redis.ts'
import { eventually } from '../helpers/eventually.ts'
import { RedisCluster } from '../helpers/redis-cluster.ts'
import { hasRedis } from '../helpers/redis-server.ts'
import { clusterLibraries, libraries, make, open, openAndClose } from '../helpers/redis-store.ts'
import { startStoreProcess } from '../helpers/store-process.ts'
import { untilAnswered } from '../helpers/until-answered.ts'
import { testStoreContract } from './contract.ts'

test('there is a server to test with', async (t) => {
  hasRedis(t)
})

test('three nodes', async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t)
  for (const [library, createClient] of clusterLibraries) {
    t.test(library, async (t) => {
      testStoreContract(t, (_t, lease) => redisStore(createClient(cluster.ports), { lease, prefix: library }))
    })
  }
})

test('three nodes that hang do not keep a process from ending after close()', async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t)
  const children = clusterLibraries.map(([library]) => ({
    library,
    child: startStoreProcess(t, library, cluster.ports)
  }))
  for (const { child } of children) await eventually('the store is open', () => child.output() === 'open\n')
  for (const node of cluster.masters) node.hang()
  for (const { child } of children) child.goOn()
  for (const { library, child } of children) t.strictSame(await child.exited, [0, null], library)
})

test('what is closed while it connects leaves no connection behind', async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t)
  for (const [library, createClient] of clusterLibraries) {
    await openAndClose(t, () => createClient(cluster.ports))
    await leftAlone(cluster, library)
    t.pass(library)
  }
})

test('where one node has closed its connections, none to the others is left behind', async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t)
  for (const [library, createClient] of clusterLibraries) {
    const { store } = await open(t, createClient(cluster.ports))
    await cluster.masters[0]?.command('CLIENT', 'KILL', 'SKIPME', 'yes')
    for (let number = 0; number < 20; number++) {
      await untilAnswered(() => store.read({ streamId: `stream-${number}`, owner: undefined }, 0, 0))
    }
    await store.close(0)
    await leftAlone(cluster, library)
    t.pass(library)
  }
})

test('a client for a single server is told that there is a cluster', async (t) => {
  if (!hasRedis(t)) return
  const cluster = await RedisCluster.start(t)
  for (const [library, client] of libraries) {
    const opened = await Promise.allSettled(
      cluster.masters.map(({ port }) => {
        const { store, host } = make(t, client(port), { lease: 30_000 })
        return store.open(host)
      })
    )
    // One of the nodes has the keys that are tried.
    const refused = opened.filter((outcome) => outcome.status === 'rejected')
    t.equal(refused.length, 2, library)
    for (const { reason } of refused) t.match(reason, { code: 'FST_ERR_RSSE_STORE_INVALID', message: /cluster client/ })
  }
})

async function leftAlone({ masters }: RedisCluster, library: string): Promise<void> {
  for (const node of masters) {
    await eventually(`nobody but us is connected (${library})`, async () => (await node.connections()) === 1)
  }
}
