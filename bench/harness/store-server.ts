import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'

const PROGRAMS = ['redis-server', 'valkey-server']
const QUIET_MS = 100
const PATIENCE_MS = 30_000
const INFO_COMMAND_BYTES = '*2\r\n$4\r\ninfo\r\n$3\r\nall\r\n'.length

/** What a client sends by itself; scripts run the others, or they only set a connection up. */
const COMMANDS: ReadonlySet<string> = new Set([
  'eval',
  'evalsha',
  'get',
  'incr',
  'ping',
  'set',
  'subscribe',
  'unsubscribe'
])

/** What the server has counted since it began. */
export interface StoreReading {
  /** Commands that clients sent; those that their scripts ran are part of them. */
  readonly commands: number
  /** Scripts alone: no pings, no subscriptions. */
  readonly scripts: number
  readonly bytes: number
  /** Microseconds, user and system. */
  readonly cpu: number
}

/** Why there can be no store on this machine. */
export function missingStore(): string | undefined {
  return program() === undefined
    ? `neither ${PROGRAMS.join(' nor ')} was found: install Redis 7 or newer (Debian: apt-get install redis-server)`
    : undefined
}

function program(): string | undefined {
  return PROGRAMS.find((name) => {
    try {
      execFileSync(name, ['--version'], { stdio: 'ignore' })
      return true
    } catch {
      return false
    }
  })
}

/** A store of one stage: a process on a free port that keeps nothing. */
export class StoreServer {
  readonly port: number
  readonly #child: ChildProcess
  readonly #folder: string
  readonly #client: Redis
  // What the readings themselves have cost.
  #ownBytes = 0

  private constructor(port: number) {
    this.port = port
    this.#folder = mkdtempSync(join(tmpdir(), 'rsse-bench-'))
    const settings = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
    this.#child = spawn(program() ?? '', [...settings, '--dir', this.#folder], { stdio: 'ignore' })
    this.#client = new Redis({ port, host: '127.0.0.1', retryStrategy: () => 20 })
    // It is not there at once.
    this.#client.on('error', () => {})
  }

  static async start(): Promise<StoreServer> {
    const server = new StoreServer(await freePort())
    await server.#client.ping()
    return server
  }

  async reading(): Promise<StoreReading> {
    this.#ownBytes += INFO_COMMAND_BYTES
    const info = await this.#client.info('all')
    const ownBytes = this.#ownBytes
    this.#ownBytes += Buffer.byteLength(info) + '$1234\r\n\r\n'.length
    let commands = 0
    let scripts = 0
    for (const [, name = '', calls, failed] of info.matchAll(/^cmdstat_([^:]+):calls=(\d+).*,failed_calls=(\d+)/gm)) {
      if (COMMANDS.has(name)) commands += Number(calls)
      // The first of its kind is refused, and sent again as a whole.
      if (name.startsWith('eval')) scripts += Number(calls) - Number(failed)
    }
    // Scripts publish too.
    if (scripts === 0) commands += numberIn(info, 'cmdstat_publish:calls=')
    return {
      commands,
      scripts,
      bytes: numberIn(info, 'total_net_input_bytes:') + numberIn(info, 'total_net_output_bytes:') - ownBytes,
      cpu: 1e6 * (numberIn(info, 'used_cpu_user:') + numberIn(info, 'used_cpu_sys:'))
    }
  }

  /** Connections of others. */
  async connections(): Promise<number> {
    return numberIn(await this.#client.info('clients'), 'connected_clients:') - 1
  }

  /** Waits until nothing comes any more: clients have an event before the store has. */
  async settled(): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS
    let { commands } = await this.reading()
    for (;;) {
      await sleep(QUIET_MS)
      const after = await this.reading()
      if (after.commands === commands) return
      if (performance.now() > deadline) throw new Error('the store does not come to rest')
      commands = after.commands
    }
  }

  async forgetStreams(): Promise<void> {
    await this.#client.flushall()
  }

  /** From now on nobody hears what is published. */
  async turnPubSubOff(): Promise<void> {
    await this.#client.call('ACL', 'SETUSER', 'default', '-subscribe')
    await this.#client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  }

  async stop(): Promise<void> {
    this.#client.disconnect()
    const exited = once(this.#child, 'exit')
    if (this.#child.kill('SIGKILL')) await exited
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

function numberIn(info: string, key: string): number {
  const at = info.indexOf(key)
  return at === -1 ? 0 : Number.parseFloat(info.slice(at + key.length))
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}
