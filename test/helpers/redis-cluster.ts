import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { RedisServer } from './redis-server.ts'

const MASTERS = 3
const SLOTS = 16_384

/** A real cluster of three masters on 127.0.0.1, each with as many replicas as asked for. */
export class RedisCluster {
  readonly masters: readonly RedisServer[]
  readonly replicas: readonly RedisServer[]

  private constructor(nodes: readonly RedisServer[]) {
    this.masters = nodes.slice(0, MASTERS)
    this.replicas = nodes.slice(MASTERS)
  }

  static async start(t: Test, replicasPerMaster = 0): Promise<RedisCluster> {
    // A short one makes nodes of a busy machine drop their links, and the messages in them; a long one, a test that waits.
    const nodeTimeoutMs = replicasPerMaster > 0 ? 2_000 : 30_000
    const clustered = ['--cluster-enabled', 'yes', '--cluster-node-timeout', String(nodeTimeoutMs)]
    const count = MASTERS * (1 + replicasPerMaster)
    const nodes = await Promise.all(Array.from({ length: count }, () => RedisServer.start(t, clustered)))
    const cluster = new RedisCluster(nodes)
    await cluster.#join()
    return cluster
  }

  get ports(): number[] {
    return [...this.masters, ...this.replicas].map(({ port }) => port)
  }

  async #join(): Promise<void> {
    const [first, ...others] = [...this.masters, ...this.replicas]
    for (const [index, master] of this.masters.entries()) {
      const [from, to] = [index, index + 1].map((share) => Math.floor((share * SLOTS) / MASTERS)) as [number, number]
      await master.command('CLUSTER', 'ADDSLOTSRANGE', String(from), String(to - 1))
      await master.command('CLUSTER', 'SET-CONFIG-EPOCH', String(index + 1))
    }
    for (const node of others) await node.command('CLUSTER', 'MEET', '127.0.0.1', String(first?.port))
    await this.#until('every node knows the others', (info) =>
      info.includes(`cluster_known_nodes:${this.ports.length}`)
    )
    for (const [index, replica] of this.replicas.entries()) {
      const id = await this.masters[index % MASTERS]?.command('CLUSTER', 'MYID')
      await replica.command('CLUSTER', 'REPLICATE', String(id).split('\r\n')[1] ?? '')
    }
    await this.#until('every node serves', (info) => info.includes('cluster_state:ok'))
    for (const replica of this.replicas) {
      while (!(await replica.command('INFO', 'replication')).includes('master_link_status:up')) await delay(20)
    }
  }

  async #until(what: string, holds: (info: string) => boolean): Promise<void> {
    for (const node of [...this.masters, ...this.replicas]) {
      for (let round = 0; !holds(await node.command('CLUSTER', 'INFO')); round++) {
        if (round > 500) throw new Error(`Waited for this in vain: ${what}`)
        await delay(20)
      }
    }
  }
}
