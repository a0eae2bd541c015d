import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { ContestantName } from './contestant.ts'
import type { Held, Reading } from './meter.ts'
import type { Answer, Ask, ServerSetting } from './server.ts'
import type { Plan } from './source.ts'

const PATIENCE_MS = 30_000
const SERVER = fileURLToPath(new URL('./server.js', import.meta.url))

interface Pending {
  readonly resolve: (value: never) => void
  readonly reject: (reason: Error) => void
}

/** The runner's end of one server process. */
export class ServerProcess {
  readonly contestant: ContestantName
  readonly #child: ChildProcess
  readonly #pending = new Map<number, Pending>()
  #lastNumber = 0
  #isStopping = false
  port = 0

  private constructor(setting: ServerSetting) {
    this.contestant = setting.contestant
    const execArgv = ['--expose-gc', ...(setting.nodeOptions ?? []), ...(process.env.BENCH_NODE_ARGS?.split(' ') ?? [])]
    this.#child = fork(SERVER, [JSON.stringify(setting)], { execArgv, serialization: 'advanced' })
    this.#child.on('message', (message) => this.#settle(message as Answer))
    this.#child.on('exit', (code, signal) => this.#onExit(code, signal))
  }

  static async start(setting: ServerSetting): Promise<ServerProcess> {
    const server = new ServerProcess(setting)
    await new Promise<unknown>((resolve, reject) => server.#pending.set(0, { resolve, reject }))
    server.port = await server.ask<number>('port')
    return server
  }

  ask<T>(operation: string, argument?: unknown): Promise<T> {
    const number = ++this.#lastNumber
    const message: Ask = { number, operation, argument }
    return new Promise<T>((resolve, reject) => {
      this.#pending.set(number, { resolve, reject })
      this.#child.send(message)
    })
  }

  /** Starts every generator that waits for it. */
  run(plan: Plan): Promise<void> {
    return this.ask('run', plan)
  }

  begin(delayResolutionMs = 10): Promise<void> {
    return this.ask('begin', delayResolutionMs)
  }

  end(): Promise<Reading> {
    return this.ask('end')
  }

  held(): Promise<Held> {
    return this.ask('held')
  }

  /** Waits until so many generators wait for their plan: all requests have arrived. */
  async waiting(generators: number): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS
    for (;;) {
      const waiting = await this.ask<number>('waiting')
      if (waiting >= generators) return
      if (performance.now() > deadline) throw new Error(`${waiting} of ${generators} generators were started`)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }

  async stop(): Promise<void> {
    this.#isStopping = true
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await exited
  }

  #settle({ number, value, error }: Answer): void {
    const pending = this.#pending.get(number)
    this.#pending.delete(number)
    if (error === undefined) pending?.resolve(value as never)
    else pending?.reject(new Error(`${this.contestant}: ${error}`))
  }

  #onExit(code: number | null, signal: string | null): void {
    if (this.#isStopping) return
    const error = new Error(`${this.contestant} died with ${signal ?? code}`)
    for (const pending of this.#pending.values()) pending.reject(error)
    this.#pending.clear()
  }
}
