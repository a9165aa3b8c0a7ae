import numpy as np

from tfadv import data


def test_synthetic_images_have_any_size_and_number():
    dataset = data.load("synthetic", image_size=20, num_classes=7, num_train=90, num_validation=70)
    assert dataset.image_shape == (20, 20, 3)
    assert (dataset.num_classes, dataset.num_train, dataset.num_validation) == (7, 90, 70)
    images, labels = next(iter(dataset.train_batches(90, 1)))
    assert images.shape == (90, 20, 20, 3) and images.numpy().std() > 60
    assert set(labels.numpy()) == set(range(7))
    np.testing.assert_array_equal(images[:26], images[64:])
    indices = [batch[2] for batch in dataset.validation_batches(32).as_numpy_iterator()]
    assert [index for index in np.concatenate(indices) if index >= 0] == list(range(70))


def test_synthetic_images_come_from_the_seed_and_are_as_many_as_imagenets():
    datasets = [data.load("synthetic", image_size=8, seed=seed) for seed in (0, 0, 1)]
    first, same, other = (next(iter(each.train_batches(4, 1)))[0].numpy() for each in datasets)
    np.testing.assert_array_equal(first, same)
    assert (first != other).mean() > 0.9
    assert (datasets[0].num_classes, datasets[0].num_train) == (1000, 1281167)
    assert datasets[0].num_validation == 50000
