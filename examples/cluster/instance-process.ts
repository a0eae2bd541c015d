import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { InstanceSettings } from './instance.ts'

export interface InstanceProcessOptions extends InstanceSettings {
  readonly name: string
  readonly file: URL
  readonly args: readonly string[]
  /** How long it stays away when it was killed, in milliseconds. */
  readonly restartMs: number
  /** It could not be started again. */
  readonly onError: (error: Error) => void
}

const CLOSE_TIMEOUT_MS = 5_000

/** One instance as the process sees it that starts it, kills it, and starts it again. */
export class InstanceProcess {
  readonly #options: InstanceProcessOptions
  #child: ChildProcess | undefined
  // Undefined while it cannot be reached: it starts, or has been killed.
  #port: number | undefined
  #backAt: number | undefined
  #restart: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(options: InstanceProcessOptions) {
    this.#options = options
  }

  get name(): string {
    return this.#options.name
  }

  get port(): number | undefined {
    return this.#port
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** Milliseconds until it is started again; undefined unless it was killed. */
  get backInMs(): number | undefined {
    return this.#backAt === undefined ? undefined : Math.max(0, this.#backAt - Date.now())
  }

  /** Resolves when it takes requests. */
  async start(): Promise<void> {
    const { name, file, args, redisPort, retry } = this.#options
    const settings: InstanceSettings = { redisPort, retry }
    this.#backAt = undefined
    const child = fork(file, args, { env: { ...process.env, INSTANCE_SETTINGS: JSON.stringify(settings) } })
    this.#child = child
    const exited = new Promise<never>((_resolve, reject) => {
      child.once('exit', () => {
        this.#onExit()
        reject(new Error(`Instance ${name} has ended.`))
      })
    })
    exited.catch(() => {})
    const [{ port }] = (await Promise.race([once(child, 'message'), exited])) as [{ port: number }]
    this.#port = port
  }

  /** As a machine that loses power: it has no chance to say a word. One that is down already stays as it is. */
  kill(): void {
    if (this.#port === undefined) return
    this.#port = undefined
    this.#child?.kill('SIGKILL')
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#restart)
    const child = this.#child
    if (child === undefined) return
    const exited = once(child, 'exit')
    const timer = setTimeout(() => child.kill('SIGKILL'), CLOSE_TIMEOUT_MS)
    if (child.connected) child.disconnect()
    await exited
    clearTimeout(timer)
  }

  #onExit(): void {
    this.#child = undefined
    this.#port = undefined
    if (this.#isClosed) return
    const { restartMs, onError } = this.#options
    this.#backAt = Date.now() + restartMs
    this.#restart = setTimeout(() => {
      this.start().catch((error: Error) => {
        if (!this.#isClosed) onError(error)
      })
    }, restartMs)
  }
}
