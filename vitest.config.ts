import { statSync } from 'node:fs';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

const folders = ['/test/model/', '/test/e2e/'];

/** The longest first, so that none of them runs alone at the end: the model, then real processes, then the rest. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const index = folders.findIndex((folder) => moduleId.includes(folder));
      return index === -1 ? folders.length : index;
    };
    const bytes = ({ moduleId }: TestSpecification) => statSync(moduleId).size;
    return files.sort((a, b) => place(a) - place(b) || bytes(b) - bytes(a));
  }
}

export default defineConfig({
  test: {
    include: ['**/*.test.ts'],
    exclude: ['node_modules/**'],
    pool: 'forks',
    // Tests with real processes mostly wait: more of them at once than there are cores.
    maxWorkers: 3,
    sequence: { sequencer: LongestFirst },
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
