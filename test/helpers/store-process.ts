import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

/** A process that has a store and nothing else. */
export interface StoreProcess {
  output(): string
  /** Makes it use its store and close it. */
  goOn(): void
  /** Its exit code and signal. */
  readonly exited: Promise<unknown[]>
}

/** Starts `fixtures/store-and-exit.ts` with a client of `library`; with several ports for a cluster. */
export function startStoreProcess(t: Test, library: string, ports: readonly number[]): StoreProcess {
  const file = fileURLToPath(new URL('../fixtures/store-and-exit.ts', import.meta.url))
  const child = spawn(process.execPath, ['--import=tsx', file, library, ...ports.map(String)], {
    stdio: ['pipe', 'pipe', 'inherit']
  })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
  return { output: () => output, goOn: () => child.stdin.write('\n'), exited: once(child, 'exit') }
}
