import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'

type Program = 'redis-server' | 'valkey-server'

/** The servers of this machine. */
export const PROGRAMS: readonly Program[] = (['redis-server', 'valkey-server'] as const).filter(isInstalled)

function isInstalled(program: Program): boolean {
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** A real server on 127.0.0.1, in a folder of its own, that keeps nothing when it stops. */
export class RedisServer {
  readonly port: number
  readonly #program: Program
  readonly #args: readonly string[]
  readonly #folder: string
  #process: ChildProcess | undefined

  private constructor(program: Program, port: number, folder: string, args: readonly string[]) {
    this.#program = program
    this.port = port
    this.#folder = folder
    this.#args = args
  }

  /**
   * Starts a server for one test, and stops it at its end. `settings` are those of its configuration:
   * `['--maxmemory', '4mb']`.
   */
  static async start(
    t: Test,
    settings: readonly string[] = [],
    program: Program = 'redis-server'
  ): Promise<RedisServer> {
    const [port, folder] = [await freePort(), createFolder()]
    const always = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder]
    return new RedisServer(program, port, folder, [...always, ...settings]).#startFor(t)
  }

  /**
   * Starts a Sentinel that watches a server under the name `main`, and needs nobody's consent to replace it. While it
   * hangs, the kernel accepts two connections for it, and no more.
   */
  static async startSentinel(t: Test, primary: RedisServer): Promise<RedisServer> {
    const [port, folder] = [await freePort(), createFolder()]
    const lines = [
      `port ${port}`,
      'bind 127.0.0.1',
      'tcp-backlog 1',
      `dir ${folder}`,
      `sentinel monitor main 127.0.0.1 ${primary.port} 1`,
      'sentinel down-after-milliseconds main 1000',
      'sentinel failover-timeout main 5000'
    ]
    const file = join(folder, 'sentinel.conf')
    writeFileSync(file, `${lines.join('\n')}\n`)
    return new RedisServer('redis-server', port, folder, [file, '--sentinel']).#startFor(t)
  }

  async #startFor(t: Test): Promise<this> {
    t.teardown(() => this.#remove())
    await this.start()
    return this
  }

  /** Starts it, again on the same port; resolves when it answers. */
  async start(): Promise<void> {
    this.#process = spawn(this.#program, this.#args, { stdio: 'ignore' })
    while (!(await this.#accepts())) await delay(5)
  }

  /** Kills it: nothing that it had is kept. */
  async stop(): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child === undefined || child.exitCode !== null) return
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  }

  /** It no longer answers, and its connections stay. */
  hang(): void {
    this.#process?.kill('SIGSTOP')
  }

  goOn(): void {
    this.#process?.kill('SIGCONT')
  }

  /** Runs one command, as `redis-cli` would, with a connection of its own; the reply is what the server sent. */
  async command(...args: string[]): Promise<string> {
    const socket = connect(this.port, '127.0.0.1')
    try {
      socket.write(`*${args.length}\r\n${args.map((arg) => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`).join('')}`)
      const [reply] = (await once(socket, 'data')) as [Buffer]
      return reply.toString()
    } finally {
      socket.destroy()
    }
  }

  /** How many connections it has, ours among them. */
  async connections(): Promise<number> {
    return [...(await this.command('CLIENT', 'LIST')).matchAll(/^id=/gm)].length
  }

  /**
   * Resolves when its only replica has what has been written here until now. `WAIT` would not do: it waits for what was
   * written by the connection that asks.
   */
  async replicated(): Promise<void> {
    const written = offsetIn(await this.command('INFO', 'replication'), /master_repl_offset:(\d+)/)
    while (!(offsetIn(await this.command('INFO', 'replication'), /slave0:.*offset=(\d+)/) >= written)) await delay(20)
  }

  async #accepts(): Promise<boolean> {
    if (this.#process?.exitCode !== null) throw new Error(`${this.#program} does not start`)
    try {
      return (await this.command('PING')).length > 0
    } catch {
      return false
    }
  }

  async #remove(): Promise<void> {
    await this.stop()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

/**
 * Whether there is a server to test with. Without one the test is skipped, with a comment that says so; but in CI, where
 * nobody reads comments, it fails.
 */
export function hasRedis(t: Test): boolean {
  if (PROGRAMS.includes('redis-server')) return true
  const message = 'no redis-server found: install Redis 7 or newer'
  if (process.env['CI'] === 'true') t.fail(message)
  else t.comment(`SKIPPED: ${message}`)
  return false
}

function offsetIn(info: string, pattern: RegExp): number {
  return Number(pattern.exec(info)?.[1])
}

function createFolder(): string {
  return mkdtempSync(join(tmpdir(), 'rsse-'))
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}
